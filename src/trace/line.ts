import { DmaTraceError, quote } from './error.ts';
import type { TraceCall } from './events.ts';
import { TRACE_LIMIT } from './limits.ts';
import type { Line } from './lines.ts';

const FIELDS = {
  create: [
    't_ns',
    'cpu',
    'create',
    'pool',
    'dev',
    'name',
    'size',
    'align',
    'boundary',
    'eff_size',
    'eff_allocation',
    'eff_boundary',
  ],
  alloc: ['t_ns', 'cpu', 'alloc', 'pool', 'kind', 'block', 'page', 'off', 'dma', 'in_use', 'gfp', 'dt_in', 'dt_out'],
  free: ['t_ns', 'cpu', 'free', 'pool', 'block', 'page', 'off', 'dma', 'in_use', 'dt_in'],
  destroy: ['t_ns', 'cpu', 'destroy', 'pool'],
  snap: ['t_ns', 'cpu', 'snap', 'begin|end', 'label'],
} as const;

type EventType = keyof typeof FIELDS;

/** Events that may have one more field: the number of the call's site. */
const WITH_SITE: ReadonlySet<EventType> = new Set(['alloc', 'free']);

/** Replaces the numbers of a failed allocation. */
const NONE = '-1';

/** Parses a line after the header. @throws `DmaTraceError` with file, line and the expected content. */
export function parseLine(line: Line, file: string): TraceCall {
  const fields = line.text.split('\t');
  const type = fields[2];
  if (!isEventType(type)) {
    if (line.text.startsWith('#')) {
      throw new DmaTraceError(file, line.number, 'an event (header lines come first)', quote(line.text));
    }
    throw new DmaTraceError(
      file,
      line.number,
      'time, CPU and create, alloc, free, destroy or snap, separated by tabs',
      line.text === '' ? 'an empty line' : quote(line.text),
    );
  }
  return new LineParser(line, file, type, fields).parse();
}

function isEventType(type: string | undefined): type is EventType {
  return type !== undefined && Object.hasOwn(FIELDS, type);
}

/** Parses the fields of a line by position, with messages that name the field. */
class LineParser {
  readonly #line: Line;
  readonly #file: string;
  readonly #type: EventType;
  readonly #fields: readonly string[];

  constructor(line: Line, file: string, type: EventType, fields: readonly string[]) {
    this.#line = line;
    this.#file = file;
    this.#type = type;
    this.#fields = fields;
    const names = FIELDS[type];
    if (fields.length !== names.length && !(fields.length === names.length + 1 && WITH_SITE.has(type))) {
      const expected = `${String(names.length)} fields of ${type} (${names.join(' ')})`;
      throw new DmaTraceError(file, line.number, expected, `${String(fields.length)} fields: ${quote(line.text)}`);
    }
  }

  parse(): TraceCall {
    const base = { line: this.#line.number, time: this.#decimal(0), cpu: this.#decimal(1) };
    switch (this.#type) {
      case 'create':
        return {
          type: 'create',
          ...base,
          pool: this.#decimal(3),
          device: this.#device(4),
          name: this.#text(5),
          size: this.#decimal(6),
          align: this.#decimal(7),
          boundary: this.#decimal(8),
          effectiveSize: this.#positive(9),
          effectiveAllocation: this.#positive(10),
          effectiveBoundary: this.#positive(11),
        };
      case 'alloc':
        return this.#alloc(base);
      case 'free':
        return {
          type: 'free',
          ...base,
          pool: this.#decimal(3),
          block: this.#decimal(4),
          page: this.#decimal(5),
          offset: this.#decimal(6),
          dma: this.#hex(7),
          inUse: this.#decimal(8),
          enter: this.#decimal(9),
          ...this.#site(),
        };
      case 'destroy':
        return { type: 'destroy', ...base, pool: this.#decimal(3) };
      case 'snap': {
        const edge = this.#fields[3];
        if (edge !== 'begin' && edge !== 'end') throw this.#wrong(3, 'begin or end');
        return { type: 'snap', ...base, edge, label: this.#text(4) };
      }
    }
  }

  #alloc(base: { line: number; time: number; cpu: number }): TraceCall {
    const kind = this.#fields[4] ?? '';
    if (!/^[AK]Z?$/.test(kind)) throw this.#wrong(4, 'A, AZ, K or KZ');
    const failed = this.#fields[5] === NONE;
    if (failed) {
      for (const index of [6, 7, 9]) if (this.#fields[index] !== NONE) throw this.#wrong(index, `${NONE}, as block is`);
      if (this.#fields[8] !== '-') throw this.#wrong(8, `-, as block is ${NONE}`);
    }
    return {
      type: 'alloc',
      ...base,
      pool: this.#decimal(3),
      context: kind.startsWith('A') ? 'atomic' : 'kernel',
      zero: kind.endsWith('Z'),
      block: failed ? -1 : this.#decimal(5),
      page: failed ? -1 : this.#decimal(6),
      offset: failed ? -1 : this.#decimal(7),
      dma: failed ? -1 : this.#hex(8),
      inUse: failed ? -1 : this.#decimal(9),
      gfp: this.#hex(10),
      enter: this.#decimal(11),
      leave: this.#decimal(12),
      ...this.#site(),
    };
  }

  #site(): { site?: number } {
    const index = FIELDS[this.#type].length;
    return index < this.#fields.length ? { site: this.#positive(index) } : {};
  }

  #text(index: number): string {
    const text = this.#fields[index] ?? '';
    if (text === '') throw this.#wrong(index, 'text');
    if (text.length > TRACE_LIMIT.name) {
      throw this.#wrong(index, `text of at most ${String(TRACE_LIMIT.name)} characters`);
    }
    return text;
  }

  /** Names of devices have no slash in Linux. */
  #device(index: number): string {
    const text = this.#text(index);
    if (text.includes('/')) throw this.#wrong(index, 'text without a slash');
    return text;
  }

  #decimal(index: number): number {
    const text = this.#fields[index] ?? '';
    const value = text.length > TRACE_LIMIT.digits ? NaN : Number(text);
    if (!/^[0-9]+$/.test(text) || !Number.isSafeInteger(value)) throw this.#wrong(index, 'a decimal number below 2^53');
    return value;
  }

  #positive(index: number): number {
    const value = this.#decimal(index);
    if (value === 0) throw this.#wrong(index, 'a decimal number above 0');
    return value;
  }

  #hex(index: number): number {
    const text = this.#fields[index] ?? '';
    const value = text.length > TRACE_LIMIT.digits ? NaN : Number(`0x${text}`);
    if (!/^[0-9a-f]+$/i.test(text) || !Number.isSafeInteger(value)) {
      throw this.#wrong(index, 'a hexadecimal number below 2^53, without 0x');
    }
    return value;
  }

  #wrong(index: number, expected: string): DmaTraceError {
    const name = FIELDS[this.#type][index] ?? 'site';
    const found = quote(this.#fields[index] ?? '');
    return new DmaTraceError(this.#file, this.#line.number, `${expected} for ${name} of ${this.#type}`, found);
  }
}
