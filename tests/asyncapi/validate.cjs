// Checks AsyncAPI documents with the parser of the AsyncAPI initiative. Prints up to twenty faults,
// one line each.
//
//   NODE_PATH=target/asyncapi/node_modules node tests/asyncapi/validate.cjs DOCUMENT.json..

const { readFileSync } = require('node:fs');
const { Parser } = require('@asyncapi/parser');

// Ignore advice about valid documents, such as to use a later version.
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
