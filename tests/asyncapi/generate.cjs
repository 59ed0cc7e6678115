// Generates types from an AsyncAPI document with Modelina, the generator of the AsyncAPI
// initiative, and compiles those in TypeScript, with message bodies as their values. Prints one
// line for each error of the compiler.
//
//   NODE_PATH=target/asyncapi/node_modules node tests/asyncapi/generate.cjs CONVERSATION.json
//
// The file is that of conform.cjs. The types are written to the folder `CONVERSATION.json.types`,
// for values.py too.

const { spawnSync } = require('node:child_process');
const { readFileSync, rmSync, writeFileSync } = require('node:fs');
const { join } = require('node:path');
const { PYTHON_PYDANTIC_PRESET, PythonFileGenerator, TypeScriptFileGenerator } = require('@asyncapi/modelina');

const STRICT = ['--strict', '--noEmit', '--target', 'es2022', '--moduleResolution', 'node', '--skipLibCheck'];

// Names of fields and values of enums as they are on the wire.
const typescript = new TypeScriptFileGenerator({
    modelType: 'interface',
    enumType: 'union',
    mapType: 'record',
    rawPropertyNames: true,
});
const python = new PythonFileGenerator({ presets: [PYTHON_PYDANTIC_PRESET] });

// Returns the name of the type of a message.
function typeOf({ components }, name) {
    const { $ref, title } = components.messages[name].payload;
    return $ref ? components.schemas[$ref.split('/').at(-1)].title : title;
}

// Returns a module with a constant for each message, of the type of its body.
function module({ document, messages }) {
    const types = messages.map(({ name }) => typeOf(document, name));
    const imports = [...new Set(types)].map((type) => `import type { ${type} } from './${type}';`);
    const values = messages.map(
        ({ name, body }, index) => `export const ${name}_${index}: ${types[index]} = ${JSON.stringify(body)};`,
    );
    return [...imports, ...values, ''].join('\n');
}

async function main(path) {
    const read = () => JSON.parse(readFileSync(path, 'utf8'));
    const folder = `${path}.types`;
    rmSync(folder, { recursive: true, force: true });
    // Each generator changes the document that it gets.
    await typescript.generateToFiles(read().document, join(folder, 'typescript'), { exportType: 'named' });
    await python.generateToFiles(read().document, join(folder, 'python', 'models'), { packageName: 'models' });
    const values = join(folder, 'typescript', 'messages.ts');
    writeFileSync(values, module(read()));
    const compiler = require.resolve('typescript/bin/tsc');
    const { stdout, status, error } = spawnSync(process.execPath, [compiler, ...STRICT, values], {
        encoding: 'utf8',
    });
    if (error) throw error;
    process.stdout.write(stdout);
    process.exitCode = status === 0 ? 0 : 1;
}

main(process.argv[2]);
