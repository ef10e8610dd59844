/** A chart of one figure over time, with its values as text for those who don't see it. */

/** Points that a chart keeps: ten minutes of one a second. */
const KEPT = 600;

/** One line over time. */
export class Chart {
  readonly #canvas: HTMLCanvasElement;
  readonly #name: string;
  readonly #times: number[] = [];
  readonly #values: number[] = [];

  constructor(canvas: HTMLCanvasElement, name: string) {
    this.#canvas = canvas;
    this.#name = name;
    new ResizeObserver(() => {
      this.draw();
    }).observe(canvas);
  }

  /** Adds a value; `limit` is drawn as a line across, if there is one. */
  add(time: number, value: number): void {
    this.#times.push(time);
    this.#values.push(value);
    if (this.#times.length > KEPT) {
      this.#times.shift();
      this.#values.shift();
    }
    const most = Math.max(...this.#values);
    this.#canvas.setAttribute(
      'aria-label',
      `${this.#name}: ${text(value)} now, ${text(most)} at most, ${text(Math.min(...this.#values))} at least`,
    );
    this.draw();
  }

  /** Forgets all values. */
  clear(): void {
    this.#times.length = 0;
    this.#values.length = 0;
  }

  draw(): void {
    const { clientHeight: height, clientWidth: width } = this.#canvas;
    if (width === 0) return;
    this.#canvas.width = width * devicePixelRatio;
    this.#canvas.height = height * devicePixelRatio;
    const context = this.#canvas.getContext('2d')!;
    context.scale(devicePixelRatio, devicePixelRatio);
    const style = getComputedStyle(this.#canvas);
    const most = niceCeiling(Math.max(1, ...this.#values));
    const top = 14;
    const y = (value: number): number => height - 4 - (value / most) * (height - top - 6);
    context.font = '11px system-ui, sans-serif';
    context.fillStyle = style.color;
    context.globalAlpha = 0.65;
    context.fillText(`${this.#name}  ${text(this.#values.at(-1) ?? 0)}`, 4, 11);
    context.textAlign = 'right';
    context.fillText(text(most), width - 4, 11);
    context.strokeStyle = style.color;
    context.globalAlpha = 0.15;
    for (const part of [0, 0.5, 1]) {
      context.beginPath();
      context.moveTo(0, y(most * part));
      context.lineTo(width, y(most * part));
      context.stroke();
    }
    context.globalAlpha = 1;
    const end = this.#times.at(-1) ?? 0;
    const span = Math.max(60_000, end - (this.#times[0] ?? 0));
    const x = (time: number): number => width - 4 - ((end - time) / span) * (width - 8);
    context.beginPath();
    for (const [i, value] of this.#values.entries()) context.lineTo(x(this.#times[i]!), y(value));
    context.strokeStyle = style.getPropertyValue('--accent');
    context.lineWidth = 1.5;
    context.stroke();
    context.lineTo(x(end), y(0));
    context.lineTo(x(this.#times[0] ?? 0), y(0));
    context.globalAlpha = 0.12;
    context.fillStyle = style.getPropertyValue('--accent');
    context.fill();
  }
}

/** The next 1, 2 or 5 times a power of ten. */
function niceCeiling(value: number): number {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((factor) => factor * power).find((nice) => nice >= value) ?? value;
}

/** A number with separators. */
export function text(value: number): string {
  return value.toLocaleString('en-US', { maximumFractionDigits: value < 10 ? 1 : 0 });
}
