// Checks message bodies against their AsyncAPI document. Prints one line for each that does not
// conform.
//
//   NODE_PATH=target/asyncapi/node_modules node tests/asyncapi/conform.cjs CONVERSATION.json
//
// The file is `{"document": {..}, "messages": [{"name": "GetRequest", "body": ..}, ..]}`. The names
// are keys in the document's `components.messages`.

const { readFileSync } = require('node:fs');
const Ajv = require('ajv').default;

const { document, messages } = JSON.parse(readFileSync(process.argv[2], 'utf8'));
// AsyncAPI adds keywords, and Rust's types add formats.
const ajv = new Ajv({ strict: false, validateFormats: false });

const faults = messages.flatMap(({ name, body }) => {
    const validate = ajv.compile({ $ref: `#/components/messages/${name}/payload`, components: document.components });
    return validate(body) ? [] : validate.errors.map(({ instancePath, message }) => `${name}${instancePath}: ${message}`);
});
faults.forEach((fault) => console.log(fault));
process.exitCode = faults.length > 0 ? 1 : 0;
