/** The map of a pool: a canvas with a cell for each block, coloured by state. Draws only the visible blocks. */
import { BLOCK_STATE } from '../format.ts';

/** Size of a cell in pixels. */
const CELL = { least: 1, most: 24 } as const;
/** Size from which cells have gaps. */
const GAP_FROM = 4;

/** The states of a pool's blocks, in the order of its pages. See `BLOCK_STATE`. */
export interface MapBlocks {
  readonly states: Uint8Array;
  /** Numbers of the pages, ascending. */
  readonly pages: readonly number[];
  readonly blocksPerPage: number;
}

const NO_BLOCKS: MapBlocks = { states: new Uint8Array(0), pages: [], blocksPerPage: 1 };

/** Colour of a state byte: red, green, blue. */
export function colourOf(byte: number, dark: boolean): readonly [number, number, number] {
  const worker = byte & 63;
  switch (byte >> 6) {
    case BLOCK_STATE.allocated:
      // One hue, in five shades by worker.
      return fromHsl(214, 0.75, (dark ? 0.6 : 0.42) + (worker % 5) * 0.045);
    case BLOCK_STATE.transit:
      return fromHsl(36, 0.95, 0.5);
    case BLOCK_STATE.unusable:
      return worker === 0 ? fromHsl(352, 0.8, 0.5) : fromHsl(0, 0, dark ? 0.08 : 0.6);
    default:
      // Magazines: a hue for each worker, different from the above.
      return worker === 0
        ? fromHsl(0, 0, dark ? 0.22 : 0.88)
        : fromHsl(90 + ((worker * 47) % 90), 0.45, dark ? 0.4 : 0.68);
  }
}

function fromHsl(hue: number, saturation: number, lightness: number): readonly [number, number, number] {
  const part = (n: number): number => {
    const k = (n + hue / 30) % 12;
    const a = saturation * Math.min(lightness, 1 - lightness);
    return Math.round(255 * (lightness - a * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return [part(0), part(8), part(4)];
}

/** Draws the map and handles its keys and pointer. */
export class BlockMap {
  readonly #canvas: HTMLCanvasElement;
  readonly #context: CanvasRenderingContext2D;
  readonly #cells = document.createElement('canvas');
  readonly #select: (index: number) => void;
  readonly #palette = new Uint32Array(256);
  #blocks: MapBlocks = NO_BLOCKS;
  #selected = -1;
  #top = 0;
  /** Cell size; 0: the largest with which all blocks are visible. */
  #zoom = 0;
  #dark = false;
  #dirty = false;
  #image: ImageData | null = null;

  /** @param select Called with the position of the selected block, -1 for none. */
  constructor(canvas: HTMLCanvasElement, select: (at: number) => void) {
    this.#canvas = canvas;
    this.#context = canvas.getContext('2d')!;
    this.#select = select;
    canvas.addEventListener('pointermove', (event) => {
      this.#point(event.offsetX, event.offsetY);
    });
    canvas.addEventListener('wheel', (event) => {
      const before = this.#top;
      this.#scrollTo(this.#top + Math.sign(event.deltaY) * Math.max(1, Math.round(this.#visibleRows / 8)));
      if (this.#top !== before) event.preventDefault();
    });
    canvas.addEventListener('keydown', (event) => {
      if (this.#key(event.key)) event.preventDefault();
    });
    new ResizeObserver(() => {
      this.redraw();
    }).observe(canvas);
  }

  /** Frames drawn so far. */
  frames = 0;

  /** Shows these blocks. Keeps the selection. */
  show(blocks: MapBlocks): void {
    this.#blocks = blocks;
    if (this.#selected >= blocks.states.length) this.#selected = -1;
    this.redraw();
  }

  /** Selects light or dark colours. */
  setDark(dark: boolean): void {
    this.#dark = dark;
    for (let byte = 0; byte < 256; byte++) {
      const [r, g, b] = colourOf(byte, dark);
      // Little-endian, as on all browsers' platforms.
      this.#palette[byte] = 0xff000000 | (b << 16) | (g << 8) | r;
    }
    this.redraw();
  }

  /** Draws in the next frame. */
  redraw(): void {
    if (this.#dirty) return;
    this.#dirty = true;
    requestAnimationFrame(() => {
      this.#dirty = false;
      this.#draw();
    });
  }

  /** Selects a block by its position; -1 for none. */
  select(at: number): void {
    if (at === this.#selected) return;
    this.#selected = at;
    this.redraw();
    this.#select(at);
  }

  get #cell(): number {
    if (this.#zoom > 0) return this.#zoom;
    const { clientHeight, clientWidth } = this.#canvas;
    const area = (clientWidth * clientHeight) / Math.max(1, this.#blocks.states.length);
    let cell = Math.max(CELL.least, Math.min(CELL.most, Math.floor(Math.sqrt(area))));
    // A row has a whole number of cells, so one more row may be needed than fits. Smaller cells then fit.
    while (
      cell > CELL.least &&
      Math.ceil(this.#blocks.states.length / Math.floor(clientWidth / cell)) * cell > clientHeight
    )
      cell--;
    return cell;
  }

  get #columns(): number {
    return Math.max(1, Math.floor(this.#canvas.clientWidth / this.#cell));
  }

  get #visibleRows(): number {
    return Math.max(1, Math.floor(this.#canvas.clientHeight / this.#cell));
  }

  #scrollTo(row: number): void {
    const rows = Math.ceil(this.#blocks.states.length / this.#columns);
    this.#top = Math.max(0, Math.min(row, rows - this.#visibleRows));
    this.redraw();
  }

  #point(x: number, y: number): void {
    const cell = this.#cell;
    const column = Math.floor(x / cell);
    const at = (this.#top + Math.floor(y / cell)) * this.#columns + column;
    if (column < this.#columns && at < this.#blocks.states.length) this.select(at);
  }

  #key(key: string): boolean {
    const columns = this.#columns;
    const last = this.#blocks.states.length - 1;
    const steps: Readonly<Record<string, number>> = {
      ArrowLeft: -1,
      ArrowRight: 1,
      ArrowUp: -columns,
      ArrowDown: columns,
      PageUp: -columns * this.#visibleRows,
      PageDown: columns * this.#visibleRows,
      Home: -Infinity,
      End: Infinity,
    };
    const step = steps[key];
    if (step !== undefined && last >= 0) {
      const at = this.#selected < 0 ? 0 : Math.max(0, Math.min(last, this.#selected + step));
      this.#show(at);
      this.select(at);
      return true;
    }
    if (key === '+' || key === '-') {
      this.#zoom = Math.max(
        CELL.least,
        Math.min(CELL.most, this.#cell + (key === '+' ? 1 : -1) * Math.max(1, this.#cell >> 2)),
      );
    } else if (key === '0') this.#zoom = 0;
    else if (key === 'n') this.#nextUnlike();
    else return false;
    this.#show(Math.max(0, this.#selected));
    return true;
  }

  /** Selects the next block in a different state. */
  #nextUnlike(): void {
    const { states } = this.#blocks;
    const from = Math.max(0, this.#selected);
    for (let at = from + 1; at < states.length; at++) {
      if (states[at] !== states[from]) {
        this.select(at);
        return;
      }
    }
  }

  /** Scrolls to make a block visible. */
  #show(at: number): void {
    const row = Math.floor(at / this.#columns);
    if (row < this.#top) this.#scrollTo(row);
    else if (row >= this.#top + this.#visibleRows) this.#scrollTo(row - this.#visibleRows + 1);
    else this.#scrollTo(this.#top);
  }

  #draw(): void {
    const { clientHeight, clientWidth } = this.#canvas;
    if (clientWidth === 0) return;
    const ratio = devicePixelRatio;
    const [width, height] = [Math.round(clientWidth * ratio), Math.round(clientHeight * ratio)];
    if (this.#canvas.width !== width || this.#canvas.height !== height) {
      this.#canvas.width = width;
      this.#canvas.height = height;
    }
    const context = this.#context;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, clientWidth, clientHeight);
    const cell = this.#cell;
    const columns = this.#columns;
    const { states } = this.#blocks;
    const first = this.#top * columns;
    const rows = Math.min(this.#visibleRows + 1, Math.ceil((states.length - first) / columns));
    if (rows > 0) this.#drawCells(first, columns, rows, cell);
    if (cell >= GAP_FROM) {
      context.fillStyle = this.#dark ? '#14171c' : '#ffffff';
      for (let column = 1; column <= columns; column++) context.fillRect(column * cell - 1, 0, 1, rows * cell);
      for (let row = 1; row <= rows; row++) context.fillRect(0, row * cell - 1, columns * cell, 1);
    }
    if (this.#selected >= first && this.#selected < first + rows * columns) {
      const n = this.#selected - first;
      const [x, y] = [(n % columns) * cell, Math.floor(n / columns) * cell];
      context.strokeStyle = this.#dark ? '#ffffff' : '#000000';
      context.lineWidth = 2;
      context.strokeRect(x - 1, y - 1, cell + 2, cell + 2);
    }
    this.frames++;
  }

  /** Draws one pixel for each block, then scales the image. */
  #drawCells(first: number, columns: number, rows: number, cell: number): void {
    if (this.#image?.width !== columns || this.#image.height !== rows) {
      this.#image = new ImageData(columns, rows);
      this.#cells.width = columns;
      this.#cells.height = rows;
    }
    const pixels = new Uint32Array(this.#image.data.buffer);
    const { states } = this.#blocks;
    const palette = this.#palette;
    const count = Math.min(pixels.length, states.length - first);
    for (let i = 0; i < count; i++) pixels[i] = palette[states[first + i]!]!;
    pixels.fill(0, count);
    this.#cells.getContext('2d')!.putImageData(this.#image, 0, 0);
    this.#context.imageSmoothingEnabled = false;
    this.#context.drawImage(this.#cells, 0, 0, columns * cell, rows * cell);
  }
}
