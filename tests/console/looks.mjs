// Looks at the page in light and dark, wide and narrow. With RPC_TESTS_SCREENSHOTS, a folder, it also makes the
// pictures of the documentation there.

import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";

import { address, assertFits, done, method, withPage } from "./browser.mjs";

const folder = process.env.RPC_TESTS_SCREENSHOTS;
/** Whether there are minutes for the charts to fill. */
const seconds = folder ? 75 : 3;

const picture = async (page, name) => {
  if (!folder) return;
  await mkdir(folder, { recursive: true });
  await page.screenshot({ path: join(folder, `console-${name}.png`), animations: "disabled" });
};

const background = (page) => page.evaluate(() => getComputedStyle(document.body).backgroundColor);

await withPage(async (page) => {
  await page.goto(address());
  await method(page, "get").click();
  await page.locator(".chart-picture .line.calls").waitFor();
  await page.waitForTimeout(seconds * 1000);
  await page.getByLabel("number", { exact: true }).fill("9007199254740993");
  await page.keyboard.press("Enter");
  await page.locator(".answer .outcome.ok").waitFor();
  await page.getByRole("heading", { name: "Last minutes" }).click();
  await assertFits(page, "a method");
  await picture(page, "method");
  const light = await background(page);
  await page.emulateMedia({ colorScheme: "dark" });
  assert.notEqual(await background(page), light, "dark mode has another background");

  await method(page, "prices").click();
  await page.getByLabel("article", { exact: true }).fill("NT-1843");
  await page.getByRole("button", { name: "Start" }).click();
  await page.locator(".items li").nth(30).waitFor();
  await assertFits(page, "a stream");
  await picture(page, "stream");
  await page.getByRole("button", { name: "Stop" }).click();
  await page.locator(".answer .outcome.stopped").waitFor();
  await page.emulateMedia({ colorScheme: "light" });

  await page.getByRole("link", { name: /^Queues/ }).click();
  await page.getByRole("link", { name: "3 · open" }).click();
  await page.locator(".letters tbody tr").nth(2).waitFor();
  await page.locator(".letters button.link").first().click();
  await page.locator(".letter-details").waitFor();
  await assertFits(page, "the queues");
  await page.setViewportSize({ width: 1280, height: 700 });
  await picture(page, "queues");
  await page.setViewportSize({ width: 1280, height: 800 });
  await page.getByRole("link", { name: /^Workers/ }).click();
  await assertFits(page, "the workers");

  // A phone.
  await page.setViewportSize({ width: 360, height: 740 });
  await assertFits(page, "the workers on a phone");
  await page.getByRole("link", { name: /^Queues/ }).click();
  await page.getByRole("link", { name: "3 · open" }).click();
  await page.locator(".letters tbody tr").nth(2).waitFor();
  await assertFits(page, "the queues on a phone");
  await page.getByRole("link", { name: /^Methods/ }).click();
  await assertFits(page, "the methods on a phone");
  await picture(page, "phone-methods");
  await method(page, "place").click();
  await page.getByRole("button", { name: "+ item" }).click();
  await page.getByLabel("state", { exact: true }).first().selectOption("Paid");
  await assertFits(page, "a form on a phone");
  await page.getByRole("link", { name: "‹ Methods" }).click();
  await method(page, "get").click();
  await page.locator(".answer .outcome.ok").waitFor();
  await assertFits(page, "a method on a phone");
  await picture(page, "phone-method");
  await done("fits");
});
