/** Draws a bar chart as SVG: groups of horizontal bars, one color per series, each with its value. */
export interface Series {
  readonly name: string;
  /** One value per group; null: not measured. */
  readonly values: readonly (number | null)[];
}

export interface BarChart {
  readonly title: string;
  readonly unit: string;
  readonly groups: readonly string[];
  readonly series: readonly Series[];
}

/** Least width of the names of groups, and the width of a letter. */
const LEFT = 110;
const LETTER = 6.2;
const WIDTH = 760;
const BAR = 13;
const GAP = 12;
const TOP = 62;
/** Distinguishable with color vision deficiency (Okabe and Ito's palette). */
const COLORS = ['#999999', '#e69f00', '#56b4e9', '#009e73', '#0072b2', '#d55e00', '#cc79a7'];

export function drawBarChart({ title, unit, groups, series }: BarChart): string {
  const left = Math.max(LEFT, Math.ceil(LETTER * Math.max(...groups.map(({ length }) => length))) + 12);
  const plot = WIDTH - left - 70;
  const most = Math.max(...series.flatMap(({ values }) => values.map((value) => value ?? 0)));
  const group = series.length * BAR + GAP;
  const height = TOP + groups.length * group + 8;
  const bars = groups.flatMap((name, g) => {
    const y = TOP + g * group;
    return [
      text(left - 8, y + (series.length * BAR) / 2 + 4, name, 'text-anchor="end"'),
      ...series.flatMap(({ values }, s) => {
        const value = values[g] ?? null;
        return value === null ? [] : bar(value, left, y + s * BAR, (value / most) * plot, COLORS[s]!);
      }),
    ];
  });
  const step = (WIDTH - LEFT - 70) / series.length + 20;
  const legend = series.flatMap(({ name }, s) => [
    `<rect x="${String(Math.round(12 + s * step))}" y="36" width="10" height="10" fill="${COLORS[s]!}"/>`,
    text(Math.round(26 + s * step), 45, name),
  ]);
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${String(WIDTH)} ${String(height)}" font-family="sans-serif" font-size="11">`,
    `<rect width="100%" height="100%" fill="#ffffff"/>`,
    text(12, 20, `${title} (${unit})`, 'font-size="14" font-weight="bold"'),
    ...legend,
    ...bars,
    '</svg>',
    '',
  ].join('\n');
}

function bar(value: number, x: number, y: number, length: number, color: string): string[] {
  const width = Math.max(1, Math.round(length));
  return [
    `<rect x="${String(x)}" y="${String(y)}" width="${String(width)}" height="${String(BAR - 2)}" fill="${color}"/>`,
    text(x + width + 4, y + BAR - 3, value.toFixed(1)),
  ];
}

function text(x: number, y: number, content: string, attributes = ''): string {
  const escaped = content.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
  return `<text x="${String(x)}" y="${String(y)}" fill="#222222" ${attributes}>${escaped}</text>`;
}
