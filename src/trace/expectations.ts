import { checkSource, type TraceSource } from './bytes.ts';
import { DmaTraceError, quote } from './error.ts';
import { TRACE_LIMIT } from './limits.ts';
import { checkLine, type Line, readLines } from './lines.ts';
import { nameOf } from './reader.ts';

/** One row of a `pools` file: one pool. */
export interface PoolsRow {
  /** Name of the pool, cut by the kernel to 31 bytes; not necessarily unique. */
  readonly name: string;
  /** Number of allocated blocks. */
  readonly active: number;
  /** Number of blocks in all its pages, in the kernel: pages * (bytes of a page / bytes of a block). */
  readonly blocks: number;
  /** Bytes of a block, rounded. */
  readonly size: number;
  /** Number of its pages. */
  readonly pages: number;
}

/** The kernel's `pools` file of one device at one snapshot. */
export interface PoolsFile {
  /** The snapshot's name, as in the trace. */
  readonly label: string;
  /** Time when it was opened, in nanoseconds of the trace's clock. */
  readonly time: number;
  /** The file's path below /sys/devices. */
  readonly path: string;
  /** Name of the device: the file's directory. */
  readonly device: string;
  /** The pools, newest first. */
  readonly rows: readonly PoolsRow[];
  /** Text of the file. */
  readonly text: string;
}

/** Options of {@link readPools}. */
export interface ReadPoolsOptions {
  /** Name for error messages. Default: the path, or `pools.txt` for a stream. */
  readonly name?: string;
}

const HEADING = /^## snapshot=(\S.*) t_ns=([0-9]+) file=(\/\S+)\/([^/\s]+)\/pools$/;
const VERSION_LINE = 'poolinfo - 0.1';
// Names contain spaces and digits: the last four words are the numbers.
const ROW = /^(.*\S) +([0-9]+) +([0-9]+) +([0-9]+) +([0-9]+)$/;
/** Maximum bytes of the kernel's file, which may end within a line: a page without the terminating zero. */
const FILE_LIMIT = 4095;
/** Maximum characters of a heading: a path has at most 4096, and a label {@link TRACE_LIMIT.name}. */
const HEADING_LIMIT = 8192;

/**
 * Reads the kernel's `pools` files that were recorded with a trace (`NAME.pools.txt`).
 *
 * @param source A path, a `file:` URL, bytes, or a stream of them; gzip or plain.
 * @param options The name for messages.
 * @throws `DmaTraceError` for the first malformed line, and for an empty file.
 *
 * @example
 * ```ts
 * for (const file of await readPools('traces/6.12/ehci.pools.txt')) {
 *   console.log(file.label, file.device, file.rows.length);
 * }
 * ```
 */
export async function readPools(source: TraceSource, options: ReadPoolsOptions = {}): Promise<PoolsFile[]> {
  const parser = new PoolsParser(nameOf(source, options, 'pools.txt'));
  checkSource(source);
  for await (const lines of readLines(source, parser.file)) for (const line of lines) parser.add(line);
  return parser.finish();
}

/** Parses one row. @returns Null if the text is no row. */
export function parseRow(text: string): PoolsRow | null {
  const match = ROW.exec(text);
  if (match === null) return null;
  const [name, active, blocks, size, pages] = match.slice(1) as [string, string, string, string, string];
  const row = { name, active: Number(active), blocks: Number(blocks), size: Number(size), pages: Number(pages) };
  return [row.active, row.blocks, row.size, row.pages].every(Number.isSafeInteger) ? row : null;
}

class PoolsParser {
  readonly file: string;
  readonly #files: PoolsFile[] = [];
  /** Label and device of each file. */
  readonly #seen = new Set<string>();
  #line = 0;
  #current: (PoolsFile & { rows: PoolsRow[]; text: string }) | null = null;

  constructor(file: string) {
    this.file = file;
  }

  add(line: Line): void {
    checkLine(line, this.file);
    this.#line = line.number;
    const current = this.#current;
    if (current?.text === '') {
      if (line.text !== VERSION_LINE) throw this.#wrong(line, `the line "${VERSION_LINE}"`);
      current.text = `${line.text}\n`;
    } else if (current === null || line.text.startsWith('## ')) {
      this.#close();
      this.#current = this.#heading(line);
    } else {
      if (current.text.length > FILE_LIMIT) throw this.#wrong(line, `a file of at most ${String(FILE_LIMIT)} bytes`);
      current.text += `${line.text}\n`;
      // The kernel cut this row: numbers may be missing or incomplete.
      if (current.text.length > FILE_LIMIT) return;
      const row = parseRow(line.text);
      if (row === null) throw this.#wrong(line, 'name, active, blocks, size and pages of a pool');
      current.rows.push(row);
    }
  }

  finish(): PoolsFile[] {
    if (this.#line === 0) throw new DmaTraceError(this.file, 1, 'the text of pools files', 'an empty file');
    this.#close();
    return this.#files;
  }

  #close(): void {
    if (this.#current === null) return;
    if (this.#current.text === '') {
      throw new DmaTraceError(this.file, this.#line + 1, `the line "${VERSION_LINE}"`, 'the end of the snapshot');
    }
    this.#files.push(this.#current);
  }

  #heading(line: Line): PoolsFile & { rows: PoolsRow[]; text: string } {
    const match = line.text.length > HEADING_LIMIT ? null : HEADING.exec(line.text);
    if (match === null) throw this.#wrong(line, '## snapshot=LABEL t_ns=TIME file=/sys/devices/.../DEVICE/pools');
    const [label, time, directory, device] = match.slice(1) as [string, string, string, string];
    const key = `${label}\n${device}`;
    if (this.#seen.has(key)) throw this.#wrong(line, `each device once in snapshot ${label}`);
    this.#seen.add(key);
    if (this.#seen.size > TRACE_LIMIT.files || !Number.isSafeInteger(Number(time))) {
      throw this.#wrong(line, `at most ${String(TRACE_LIMIT.files)} files, each at a time below 2^53`);
    }
    return { label, time: Number(time), path: `${directory}/${device}/pools`, device, rows: [], text: '' };
  }

  #wrong(line: Line, expected: string): DmaTraceError {
    return new DmaTraceError(this.file, line.number, expected, quote(line.text));
  }
}
