// A console that only shows has no buttons that change something.

import assert from "node:assert/strict";

import { address, done, method, withPage } from "./browser.mjs";

await withPage(async (page) => {
  await page.goto(address());
  await method(page, "get").click();
  await page.getByText("This console is read-only").waitFor();
  assert.equal(await page.getByRole("button", { name: /^(Call|Start|Send|Stop)/ }).count(), 0);
  await page.getByRole("link", { name: /^Queues/ }).click();
  await page.getByRole("link", { name: "1 · open" }).click();
  await page.locator(".letters tbody tr").first().waitFor();
  assert.equal(await page.getByRole("button", { name: /Retry|Drop/ }).count(), 0);
  // Also if the page begins there, before it knows that it may only look.
  await page.reload();
  await page.locator(".badge", { hasText: "read-only" }).waitFor();
  await page.locator(".letters tbody tr").first().waitFor();
  assert.equal(await page.getByRole("button", { name: /Retry|Drop/ }).count(), 0);
  await done("only looks");
});
