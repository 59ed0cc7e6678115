// What the scripts share: a browser, and steps that the test waits for.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join } from "node:path";
import { createInterface } from "node:readline";

const require = createRequire(join(process.env.RPC_TESTS_CONSOLE, "package.json"));
const { chromium } = require("playwright-core");

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Tells the test that a step is done, and waits until it lets the script go on. */
export async function done(step) {
  console.log(step);
  const { done: isOver } = await answers.next();
  assert(!isOver, "the test is still there");
}

/** Runs `use` with a page of a new browser, and fails if the page reports an error. */
export async function withPage(use, options = {}) {
  const browser = await chromium.launch({
    executablePath: process.env.RPC_TESTS_CHROMIUM,
    // Chromium has no sandbox for root.
    args: process.getuid() === 0 ? ["--no-sandbox"] : [],
  });
  try {
    const context = await browser.newContext({
      viewport: { width: 1280, height: 800 },
      ...options,
    });
    context.setDefaultTimeout(30_000);
    const page = await context.newPage();
    const errors = [];
    page.on("pageerror", (error) => errors.push(String(error)));
    page.on("console", (message) => {
      if (message.type() === "error") errors.push(message.text());
    });
    page.on("request", (request) => {
      if (new URL(request.url()).origin !== new URL(address()).origin)
        errors.push(`a request to ${request.url()}`);
    });
    await use(page);
    assert.deepEqual(errors, []);
  } finally {
    await browser.close();
  }
  process.exit(0);
}

/** The address that the console has printed. */
export function address() {
  return process.argv[2];
}

/** The link to a method in the list. */
export function method(page, name) {
  return page.locator(".sidebar a", { has: page.getByText(name, { exact: true }) });
}

/** Fails if a page is wider than its window. */
export async function assertFits(page, what) {
  const [content, width] = await page.evaluate(() => [
    document.documentElement.scrollWidth,
    innerWidth,
  ]);
  assert(content <= width, `${what}: the content has ${content} pixels, the window ${width}`);
}
