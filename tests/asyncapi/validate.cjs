// Checks AsyncAPI documents with the parser of the AsyncAPI initiative: what is wrong with them is printed, a line each, up to
// twenty lines.
//
//   NODE_PATH=target/asyncapi/node_modules node tests/asyncapi/validate.cjs DOCUMENT.json..

const { readFileSync } = require('node:fs');
const { Parser } = require('@asyncapi/parser');

// Advice about a document that is right, such as to use a later version, is none of our business.
const WARNING = 1;

async function faults(path) {
    const { diagnostics } = await new Parser().parse(readFileSync(path, 'utf8'));
    const faults = diagnostics.filter(({ severity }) => severity <= WARNING);
    return faults.map(({ code, path: at, message }) => `${path}: ${code} at ${at.join('/')}: ${message}`);
}

Promise.all(process.argv.slice(2).map(faults)).then((faults) => {
    const all = faults.flat();
    all.slice(0, 20).forEach((fault) => console.log(fault));
    process.exitCode = all.length > 0 ? 1 : 0;
});
