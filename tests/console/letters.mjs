// Retries dead letters with a server that fails halfway.

import assert from "node:assert/strict";

import { address, done, withPage } from "./browser.mjs";

await withPage(async (page) => {
  await page.goto(address());
  const shown = await page.evaluate(async () => {
    const letter = {
      method: "send",
      reason: "error",
      attempts: 1,
      last_failure_ms: null,
      bytes: 9,
    };
    const answers = {
      list: [200, { letters: [{ ...letter, id: "b" }], more: 0, notes: [] }],
      change: [
        502,
        {
          message: "the queue mail refuses messages",
          hint: "it may be full",
          changed: {
            done: 1,
            stayed: 1,
            reasons: [{ id: "c", reason: "it is malformed" }],
            notes: ["interrupted"],
          },
        },
      ],
    };
    const asked = [];
    window.fetch = async (path) => {
      const name = path.split("/").at(-1);
      asked.push(name);
      const [status, body] = answers[name];
      return new Response(JSON.stringify(body), { status });
    };
    const { lettersPanel } = await import("/letters.js");
    const panel = lettersPanel("mail");
    await panel.load();
    const status = panel.element.querySelector("[role=status]");
    const retry = async () => {
      panel.element.querySelector("tbody button.retry").click();
      while (panel.element.classList.contains("is-busy")) {
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
      return status.textContent;
    };
    const texts = [await retry()];
    // A failure before the first letter.
    answers.change = [503, { message: "the console is ending" }];
    texts.push(await retry());
    // Neither can be told.
    answers.change = answers.list = [500, { message: "something else" }];
    texts.push(await retry());
    return { asked, texts };
  });
  assert.deepEqual(shown, {
    asked: ["list", "change", "list", "change", "list", "change", "list"],
    texts: [
      "the queue mail refuses messages: it may be full. 1 letter sent to the queue again. " +
        "1 letter stayed: it is malformed. interrupted. 1 letter",
      "the console is ending. 1 letter",
      "something else. something else",
    ],
  });
  await done("failures");

  // Text cannot change the direction of what follows it.
  const texts = await page.evaluate(async () => {
    const { h, setText } = await import("/dom.js");
    const element = h("p", { title: "a\u202eb" }, "c\u2066d\n", ["e\u001b\u009b"]);
    const later = h("p");
    setText(later, "f\u202e");
    return [element.title, element.textContent, later.textContent];
  });
  assert.deepEqual(texts, ["a\\u202eb", "c\\u2066d\ne\\u001b\\u009b", "f\\u202e"]);

  // Keys of services differ, whatever their names.
  const keys = await page.evaluate(async () => {
    const { methodKey, serviceKey } = await import("/state.js");
    const plain = { name: "Orders", queue: "orders" };
    const [one, other] = [
      { name: "a", queue: "b@c" },
      { name: "a@b", queue: "c" },
    ];
    return [methodKey(plain, "get"), serviceKey(one) === serviceKey(other)];
  });
  assert.deepEqual(keys, ["Orders@orders/get", false]);
  await done("controls");
});
