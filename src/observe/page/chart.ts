/** A chart of one figure over time, drawn by uPlot. The ARIA label has the values as text. */
import uPlot from 'uplot';

/** Limit of points: ten minutes at one a second. */
const KEPT = 600;
/** Height in pixels, and the least duration on the time axis in seconds. */
const HEIGHT = 120;
const SPAN = 60;

/** One line over time. */
export class Chart {
  readonly #container: HTMLElement;
  readonly #title: HTMLElement;
  readonly #plot: uPlot;
  readonly #name: string;
  /** Seconds since 1970. */
  readonly #times: number[] = [];
  readonly #values: number[] = [];

  constructor(container: HTMLElement, name: string) {
    this.#container = container;
    this.#name = name;
    this.#title = document.createElement('p');
    container.append(this.#title);
    const colour = (property: string, opacity: string): string =>
      `color-mix(in srgb, ${getComputedStyle(container).getPropertyValue(property)} ${opacity}, transparent)`;
    const axis: uPlot.Axis = {
      stroke: () => colour('--quiet', '100%'),
      grid: { stroke: () => colour('--quiet', '25%'), width: 1 },
      ticks: { show: false },
      font: '11px system-ui, sans-serif',
    };
    this.#plot = new uPlot(
      {
        width: 260,
        height: HEIGHT,
        legend: { show: false },
        cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 } },
        scales: {
          x: { range: (_plot, first, last) => [Math.min(first, last - SPAN), last] },
          y: { range: (_plot, _least, most) => [0, niceCeiling(Math.max(1, most))] },
        },
        axes: [
          { ...axis, size: 22, space: 70 },
          { ...axis, size: 56, space: 30, values: (_plot, ticks) => ticks.map(text) },
        ],
        series: [
          {},
          {
            stroke: () => colour('--accent', '100%'),
            fill: () => colour('--accent', '12%'),
            width: 1.5,
            points: { show: false },
          },
        ],
        hooks: {
          setCursor: [
            () => {
              this.#showTitle();
            },
          ],
        },
      },
      [[], []],
      container,
    );
    new ResizeObserver(() => {
      const { clientWidth: width } = container;
      if (width > 0) this.#plot.setSize({ width, height: HEIGHT });
    }).observe(container);
    this.#showTitle();
  }

  /** Adds a value. `time`: milliseconds since 1970. */
  add(time: number, value: number): void {
    this.#times.push(time / 1000);
    this.#values.push(value);
    if (this.#times.length > KEPT) {
      this.#times.shift();
      this.#values.shift();
    }
    const [least, most] = [Math.min(...this.#values), Math.max(...this.#values)];
    this.#container.setAttribute(
      'aria-label',
      `${this.#name}: ${text(value)} now, ${text(most)} at most, ${text(least)} at least`,
    );
    this.#update();
  }

  /** Removes all values. */
  clear(): void {
    this.#times.length = 0;
    this.#values.length = 0;
    this.#update();
  }

  /** Draws again, in the current colours. */
  draw(): void {
    this.#plot.redraw();
  }

  #update(): void {
    this.#plot.setData([this.#times, this.#values]);
    this.#showTitle();
  }

  /** Shows the value under the pointer, or else the newest one. */
  #showTitle(): void {
    // uPlot's constructor calls this hook before `#plot` is assigned.
    const at = (this.#plot as uPlot | undefined)?.cursor.idx ?? this.#values.length - 1;
    const value = this.#values[at];
    this.#title.textContent = value === undefined ? this.#name : `${this.#name}: ${text(value)}`;
  }
}

/** The next 1, 2 or 5 times a power of ten. */
function niceCeiling(value: number): number {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((factor) => factor * power).find((nice) => nice >= value) ?? value;
}

/** Formats a number with separators. */
export function text(value: number): string {
  return value.toLocaleString('en-US', { maximumFractionDigits: value < 10 ? 1 : 0 });
}
