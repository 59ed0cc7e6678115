// Uses the page as people do: finds a method, calls it, stops a stream, retries a dead letter.

import assert from "node:assert/strict";

import { address, done, method, withPage } from "./browser.mjs";

const LARGE = "9007199254740993";

await withPage(async (page) => {
  let clicks = 0;
  const click = async (locator) => {
    clicks += 1;
    await locator.click();
  };

  // Following the printed link is the first click.
  clicks += 1;
  await page.goto(address());
  await click(method(page, "get"));
  await click(page.getByRole("button", { name: "Call" }));
  await page.locator(".outcome.ok, .outcome.failed").first().waitFor();
  // There is no order 0.
  await page.getByText("UnknownOrder").first().waitFor();
  assert.equal(clicks, 3);
  const url = page.url();
  assert(!url.includes("token"), `the token has left the address bar: ${url}`);
  await done("answer after three clicks");

  const number = page.getByLabel("number", { exact: true });
  await number.fill(LARGE);
  await number.press("Enter");
  await page.locator(".answer .outcome.ok").waitFor();
  const result = await page.getByLabel("The result", { exact: true }).textContent();
  assert(result.includes(`"number": ${LARGE}`), result);
  assert.match(await page.locator(".answer .trace code").textContent(), /^[0-9a-f]{32}$/);
  assert.match(await page.locator(".answer-head").textContent(), /executed: yes/);
  await done("all digits");

  // Digits also survive the way from the form to JSON and back.
  await page.getByRole("button", { name: "JSON" }).click();
  const json = page.getByLabel("Arguments by name");
  assert.equal(
    JSON.stringify(await json.inputValue()),
    JSON.stringify(`{\n  "number": ${LARGE}\n}`),
  );
  await json.fill('{"number": 18446744073709551610}');
  await page.getByRole("button", { name: "Form" }).click();
  assert.equal(await number.inputValue(), "18446744073709551610");
  await page.getByRole("button", { name: "Call" }).click();
  await page.locator(".answer .outcome.failed").waitFor();
  const failure = await page.locator(".answer .failure").textContent();
  assert(failure.includes('"number": 18446744073709551610'), failure);
  assert(failure.includes("Executed: yes"), failure);
  await done("its own error");

  // A stream, which its button stops.
  await method(page, "prices").click();
  await page.getByLabel("article", { exact: true }).fill("NT-1843");
  await page.getByRole("button", { name: "Start" }).click();
  await page.locator(".items li").nth(4).waitFor();
  await done("items arrive");
  await page.getByRole("button", { name: "Stop" }).click();
  await page.locator(".outcome.stopped").first().waitFor();
  await done("stopped");

  // The same without a pointer.
  await page.keyboard.press("/");
  await page.keyboard.type("rep");
  await page.keyboard.press("Enter");
  // What a worker says is no markup.
  await page.locator(".docs", { hasText: "<b>Takes long.</b>" }).waitFor();
  const year = page.getByLabel("year", { exact: true });
  await page.waitForFunction(() => document.activeElement?.matches("input.number"));
  await year.fill("2026");
  await page.keyboard.press("Control+Enter");
  await page.locator(".answer .outcome.running").waitFor();
  await page.keyboard.press("Escape");
  await page.locator(".answer .outcome.stopped").waitFor();
  // A form of everything: a list, an enum, and an argument that may be left out.
  await page.keyboard.press("Escape");
  await page.evaluate(() => document.activeElement.blur());
  await page.keyboard.press("/");
  await page.keyboard.type("place");
  await page.keyboard.press("Enter");
  await page.getByLabel("customer", { exact: true }).fill("Ada");
  await page.getByRole("button", { name: "+ item" }).click();
  await page.getByLabel("article", { exact: true }).fill("NT-1843");
  await page.getByLabel("count", { exact: true }).fill("7");
  await page.getByLabel("state", { exact: true }).first().selectOption("Paid");
  await page.getByLabel("receipt", { exact: true }).fill("R-1");
  await page.getByRole("button", { name: "JSON" }).click();
  const placed = JSON.parse(await json.inputValue());
  assert.deepEqual(placed, {
    customer: "Ada",
    lines: [{ article: "NT-1843", count: 7, price: 0 }],
    state: { Paid: { receipt: "R-1" } },
  });
  await page.keyboard.press("Control+Enter");
  await page.locator(".answer .outcome.ok").waitFor();
  assert.equal(await page.getByLabel("The result", { exact: true }).textContent(), LARGE);
  await done("keyboard");

  // A dead letter.
  await page.getByRole("link", { name: /^Queues/ }).click();
  await page.getByRole("link", { name: "1 · open" }).click();
  await page.getByText("no route to alice@example.com").waitFor();
  await page.locator(".letters button.link").click();
  await page.locator(".letter-details", { hasText: "Your order is on its way" }).waitFor();
  await page.getByRole("button", { name: "Retry", exact: true }).click();
  await page.getByText("1 letter sent to the queue again").waitFor();
  await page.getByText("There are no dead letters").waitFor();
  await done("letter retried");

  await page.getByRole("link", { name: /^Workers/ }).click();
  await page.locator("tbody tr", { hasText: "shop-2" }).waitFor();
  await page.locator(".changes li", { hasText: /came.*shop-2/ }).waitFor();
  await done("worker came");
  await page.locator(".changes li", { hasText: /went.*shop-2/ }).waitFor();
  await page.locator("tbody tr", { hasText: "shop-2" }).waitFor({ state: "detached" });
  await done("worker went");
});
