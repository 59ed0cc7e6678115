// Charts of the last minutes, as pictures that the page draws itself.

import { h, svg } from "./dom.js";
import { state, windowMillis } from "./state.js";

/** The height of a chart, and the space above and below its lines, in pixels. */
const HEIGHT = 66;
const TOP = 6;
const BOTTOM = 4;

/** A pause between two points that is longer than this many rounds, and this slack, is a gap. */
const MAX_ROUNDS = 4;
const SLACK_MILLIS = 2000;

/**
 * Makes charts above one another, which show the same time. Each has a `title`, a `show` that makes
 * text of a value, and `series` with a `key` of the points, a `label` and a `color`, which is a
 * class. A series that `isRare` is only shown if it has values.
 */
export function charts(all) {
  let points = [];
  /** Where the user points, from 0 at the left to 1 at the right. `null` if nowhere. */
  let pointed = null;
  const draw = () => made.forEach((chart) => chart.draw(points, pointed));
  const made = all.map((one) =>
    chart(one, (position) => {
      pointed = position;
      draw();
    }),
  );
  return {
    elements: made.map(({ element }) => element),
    update(all) {
      points = all;
      draw();
    },
  };
}

/** Makes one chart. Calls `onPoint` with where the user points in it. */
function chart({ title, series: all, show }, onPoint) {
  const values = h("span", { class: "chart-values" });
  const picture = svg("svg", { class: "chart-picture", role: "img", height: HEIGHT });
  const element = h(
    "figure",
    { class: "chart" },
    h("figcaption", {}, h("span", { class: "chart-title" }, title), values),
    picture,
  );
  /** What was drawn last, to draw it again with another width. */
  let drawn = [[], null];

  const draw = (points, pointed) => {
    drawn = [points, pointed];
    const width = picture.clientWidth;
    if (width === 0) return;
    const end = state.at;
    const begin = end - windowMillis();
    const x = (at) => ((at - begin) / (end - begin)) * width;
    const visible = points.filter((one) => one.at >= begin);
    const series = all.filter(
      ({ key, isRare }) => !isRare || visible.some((one) => one[key] !== null),
    );
    const most = Math.max(0, ...visible.flatMap((one) => series.map(({ key }) => one[key] ?? 0)));
    const top = niceMaximum(most);
    const y = (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
    const chosen =
      pointed === null ? visible.at(-1) : nearest(visible, begin + pointed * (end - begin));
    picture.replaceChildren(
      ...[0, 0.5, 1].map((part) =>
        svg("line", { class: "grid", x1: 0, x2: width, y1: y(part * top), y2: y(part * top) }),
      ),
      ...series.flatMap(({ key, color }, index) => shapes(visible, key, color, x, y, index === 0)),
      svg("text", { class: "scale", x: 2, y: TOP + 10 }, most > 0 ? show(top) : ""),
      ...(pointed !== null && chosen
        ? [
            svg("line", {
              class: "pointer",
              x1: x(chosen.at),
              x2: x(chosen.at),
              y1: TOP,
              y2: HEIGHT - BOTTOM,
            }),
          ]
        : []),
    );
    showValues(series, chosen, pointed === null ? null : end);
  };

  /** Shows the values of a point, and how old it is at `now`, unless that is `null`. */
  const showValues = (series, point, now) => {
    const age = point && now !== null ? `${Math.round((now - point.at) / 1000)}s ago` : "";
    const texts = series.map(({ key, label, color }) => [
      label,
      color,
      point ? show(point[key]) : "–",
    ]);
    // Unchanged text is left alone, because screen readers would read it again.
    const signature = JSON.stringify([texts, age]);
    if (values.dataset.shown === signature) return;
    values.dataset.shown = signature;
    values.replaceChildren(
      h("span", { class: "muted" }, age),
      ...texts.map(([label, color, text]) =>
        h(
          "span",
          { class: `chart-value ${color}` },
          label ? h("span", { class: "chart-label" }, label) : null,
          h("b", {}, text),
        ),
      ),
    );
    picture.setAttribute(
      "aria-label",
      `${title}: ${texts.map(([label, , text]) => `${label} ${text}`).join(", ")}`,
    );
  };

  picture.addEventListener("pointermove", (event) => {
    const { left, width } = picture.getBoundingClientRect();
    onPoint((event.clientX - left) / width);
  });
  picture.addEventListener("pointerleave", () => onPoint(null));
  new ResizeObserver(() => draw(...drawn)).observe(picture);
  return { element, draw };
}

/** Returns the lines of a series, maybe with an area below. Points without a value are gaps. */
function shapes(points, key, color, x, y, hasArea) {
  const longest = MAX_ROUNDS * (state.hello?.interval_ms ?? 2000) + SLACK_MILLIS;
  const parts = [];
  let last = null;
  for (const point of points) {
    if (point[key] === null || point[key] === undefined) {
      last = null;
      continue;
    }
    if (last === null || point.at - last > longest) parts.push([]);
    parts.at(-1).push([x(point.at), y(point[key])]);
    last = point.at;
  }
  return parts.flatMap((part) => {
    const line = part.map(([px, py]) => `${px.toFixed(1)},${py.toFixed(1)}`).join(" ");
    const [first] = part[0];
    const [end] = part.at(-1);
    if (part.length === 1)
      return [svg("circle", { class: `dot ${color}`, cx: first, cy: part[0][1], r: 1.5 })];
    const area = hasArea
      ? [
          svg("polygon", {
            class: `area ${color}`,
            points: `${first},${y(0)} ${line} ${end},${y(0)}`,
          }),
        ]
      : [];
    return [...area, svg("polyline", { class: `line ${color}`, points: line })];
  });
}

/** Returns the point whose time is nearest, or nothing if there is no point. */
function nearest(points, at) {
  let best = points[0];
  for (const point of points) if (Math.abs(point.at - at) < Math.abs(best.at - at)) best = point;
  return best;
}

/** Returns a round number that is not below a value. */
function niceMaximum(value) {
  if (value <= 0) return 1;
  const step = 10 ** Math.floor(Math.log10(value));
  return (
    [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((factor) => factor * step).find((round) => round >= value) ??
    value
  );
}

/** Makes a tiny chart of the rate of a method, with its last value. */
export function sparkline() {
  const width = 44;
  const height = 14;
  const line = svg("polyline", { class: "line calls" });
  const picture = svg("svg", { class: "spark", width, height, "aria-hidden": "true" }, line);
  const update = (points) => {
    // A point has the same place whether there are 30 of them or fewer.
    const shown = points.slice(-30).map((point) => point.calls ?? 0);
    const most = Math.max(...shown, 0);
    const text = shown.map((value, index) => {
      const px = width - 1 - (shown.length - 1 - index) * ((width - 2) / 29);
      const py = most === 0 ? height - 1.5 : height - 1.5 - (value / most) * (height - 3);
      return `${px.toFixed(1)},${py.toFixed(1)}`;
    });
    setPoints(line, most === 0 ? "" : text.join(" "));
  };
  return { element: picture, update };
}

function setPoints(line, points) {
  if (line.getAttribute("points") !== points) line.setAttribute("points", points);
}
