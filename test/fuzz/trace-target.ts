/**
 * Fuzz target `trace`: generated recordings, intact and damaged, through the public reader and replayer. The result of an
 * intact one must equal that of a simple model of Linux's pool. A damaged one must give a result or a `DmaTraceError`, in
 * bounded time.
 */
import assert from 'node:assert/strict';
import { gzipSync } from 'node:zlib';
import {
  decodeTrace,
  DmaTraceError,
  type PoolsFile,
  readPools,
  readTrace,
  type ReplayResult,
  replayTrace,
  TRACE_LIMIT,
} from 'dmapool/trace';
import { Random } from '../support/random.ts';
import type { FuzzTarget } from './target.ts';

/** Time limit of a damaged trace in milliseconds, on a busy machine. */
const PATIENCE = 8000;

/** Model of Linux's pool since 6.4: page numbers and offsets only. */
class LinuxPool {
  readonly device: string;
  readonly name: string;
  readonly size: number;
  readonly allocation: number;
  readonly boundary: number;
  readonly #free: { block: number; page: number; offset: number }[] = [];
  #blocks = 0;
  pages = 0;
  active = 0;
  peak = 0;
  allocs = 0;
  frees = 0;
  living = true;

  constructor(device: string, name: string, asked: Readonly<Record<'size' | 'align' | 'boundary', number>>) {
    this.device = device;
    this.name = name;
    const align = Math.max(asked.align, 1);
    this.size = Math.ceil(Math.max(asked.size, 16) / align) * align;
    this.allocation = Math.max(this.size, 4096);
    this.boundary = asked.boundary === 0 ? this.allocation : Math.min(asked.boundary, this.allocation);
  }

  get perPage(): number {
    return [...this.#offsets()].length;
  }

  /** The number of blocks that `poolinfo` prints. */
  get printedBlocks(): number {
    return this.pages * this.perPage;
  }

  alloc(): { block: number; page: number; offset: number } {
    if (this.#free.length === 0) {
      const fresh = [...this.#offsets()].map((offset) => ({ block: this.#blocks++, page: this.pages, offset }));
      this.pages++;
      this.#free.push(...fresh.reverse());
    }
    this.active++;
    this.allocs++;
    this.peak = Math.max(this.peak, this.active);
    return this.#free.pop()!;
  }

  free(block: { block: number; page: number; offset: number }): void {
    this.active--;
    this.frees++;
    this.#free.push(block);
  }

  *#offsets(): Generator<number> {
    let next = this.boundary;
    for (let offset = 0; offset + this.size <= this.allocation; offset += this.size) {
      if (offset + this.size > next) {
        offset = next;
        next += this.boundary;
        if (offset + this.size > this.allocation) return;
      }
      yield offset;
    }
  }
}

/** A recording with the content that Linux would produce. */
class Recording {
  readonly pools: LinuxPool[] = [];
  readonly lines: string[] = [];
  readonly expected: string[] = [];
  /** Pool index and page number of each operation, as in a decoded trace. */
  readonly operations: [pool: number, page: number][] = [];
  readonly out: { pool: number; block: { block: number; page: number; offset: number } }[] = [];
  readonly #random: Random;
  #time = 0;

  constructor(random: Random) {
    this.#random = random;
    this.lines.push('#dma_pool-trace v1', '#kernel\tLinux version 6.6.0 (generated)', '#a remark', '#scenario\tfuzz');
    const steps = 1 + random.below(200);
    for (let i = 0; i < steps; i++) this.#step();
    const busy = (): void => {
      for (let i = random.below(20); i >= 0; i--) this.#step();
    };
    if (random.below(2) === 0) this.#snapshot('mid', busy, random.below(2) === 0);
    this.#snapshot('end', () => undefined, false);
  }

  #line(...fields: (string | number)[]): void {
    this.#time += this.#random.below(1000);
    this.lines.push([this.#time, this.#random.below(4), ...fields].join('\t'));
  }

  #step(): void {
    const random = this.#random;
    const pick = random.below(10);
    if (this.pools.length === 0 || (pick === 0 && this.pools.length < 12)) {
      const align = [0, 1, 8, 16, 32, 64, 256, 4096][random.below(8)]!;
      const size = [1, 16, 24, 64, 96, 100, 256, 1000, 2048, 4096, 5000, 20_000][random.below(12)]!;
      const rounded = Math.ceil(Math.max(size, 16) / Math.max(align, 1)) * Math.max(align, 1);
      const least = 2 ** Math.ceil(Math.log2(rounded));
      const boundary = random.below(2) === 0 ? 0 : least * 2 ** random.below(4);
      const device = `0000:00:0${String(random.below(3))}.0`;
      const pool = new LinuxPool(device, `pool ${String(random.below(4))}`, { size, align, boundary });
      const number = this.pools.push(pool) - 1;
      this.operations.push([number, 0]);
      const effective = [pool.size, pool.allocation, pool.boundary];
      this.#line('create', number, device, pool.name, size, align, boundary, ...effective);
      return;
    }
    const number = random.below(this.pools.length);
    const pool = this.pools[number]!;
    if (pick < 6 && pool.living) {
      const block = pool.alloc();
      this.out.push({ pool: number, block });
      this.operations.push([number, block.page]);
      const kind = ['K', 'A', 'KZ', 'AZ'][random.below(4)]!;
      const where = [block.block, block.page, block.offset, this.#dma(block)];
      this.#line('alloc', number, kind, ...where, 1, 'cc0', 1, 2);
    } else if (pick < 9 && this.out.length > 0) {
      const [freed] = this.out.splice(random.below(this.out.length), 1);
      const { block } = freed!;
      this.pools[freed!.pool]!.free(block);
      this.operations.push([freed!.pool, block.page]);
      this.#line('free', freed!.pool, block.block, block.page, block.offset, this.#dma(block), 0, 1);
    } else if (pool.living && pool.active === 0 && random.below(4) === 0) {
      pool.living = false;
      this.operations.push([number, 0]);
      this.#line('destroy', number);
    }
  }

  #dma({ page, offset }: { page: number; offset: number }): string {
    return (0x100_0000 * (page + 1) + offset).toString(16);
  }

  /** Records a snapshot. `within` runs during it, before its files are read if `after`, else after them. */
  #snapshot(label: string, within: () => void, after: boolean): void {
    this.#line('snap', 'begin', label);
    if (after) within();
    for (const device of new Set(this.pools.map((pool) => pool.device))) {
      const living = this.pools.filter((pool) => pool.device === device && pool.living).reverse();
      if (living.length === 0) continue;
      this.expected.push(`## snapshot=${label} t_ns=${String(this.#time)} file=/sys/devices/pci/${device}/pools`);
      this.expected.push('poolinfo - 0.1');
      for (const { name, active, printedBlocks, size, pages } of living) {
        this.expected.push(
          `${name.padEnd(16)} ${[active, printedBlocks, size, pages].map((n) => String(n).padStart(4)).join(' ')}`,
        );
      }
    }
    if (!after) within();
    this.#line('snap', 'end', label);
  }
}

const bytesOf = (lines: readonly string[]): Uint8Array => Buffer.from(lines.map((line) => `${line}\n`).join(''));

/** Returns the bytes, sometimes compressed, in chunks of random size. */
function sourceOf(bytes: Uint8Array, random: Random): Uint8Array[] {
  const all = random.below(2) === 0 ? gzipSync(bytes) : bytes;
  const pieces: Uint8Array[] = [];
  for (let at = 0; at < all.length;) {
    const end = at + 1 + random.below(random.below(4) === 0 ? 8 : all.length);
    pieces.push(all.subarray(at, end));
    at = end;
  }
  return pieces;
}

const replay = async (source: readonly Uint8Array[], expected: readonly PoolsFile[] = []): Promise<ReplayResult> =>
  replayTrace(await decodeTrace(source), { expected, repeat: 1 });

async function whole(random: Random): Promise<void> {
  const recording = new Recording(random);
  const source = sourceOf(bytesOf(recording.lines), random);
  const trace = await decodeTrace(source);
  assert.deepEqual(
    recording.operations.map((_, i) => [trace.poolOf[i], trace.pageOf[i]]),
    recording.operations,
  );
  assert.equal(trace.operations.length, recording.operations.length);
  assert.equal(trace.header.fields.get('scenario'), 'fuzz');
  const blocks = new Map<string, number>();
  const header = recording.lines.findIndex((line) => !line.startsWith('#'));
  let operation = 0;
  for (const [i, line] of recording.lines.slice(header).entries()) {
    const [, , kind, pool, second, third] = line.split('\t');
    if (kind === 'snap') continue;
    assert.equal(trace.lineOf[operation], header + i + 1);
    if (kind === 'alloc' || kind === 'free') {
      const key = `${pool!} ${kind === 'alloc' ? third! : second!}`;
      const slot = trace.slotOf[operation]!;
      assert.equal(blocks.get(key) ?? slot, slot, 'slot of a block');
      blocks.set(key, slot);
    }
    operation++;
  }
  assert.equal(new Set(blocks.values()).size, blocks.size, 'each block has its own slot');
  let events = 0;
  for await (const event of readTrace(source)) if (event.type !== 'header') events++;
  assert.equal(events, recording.lines.length - header);

  const expected =
    recording.expected.length === 0 ? [] : await readPools(sourceOf(bytesOf(recording.expected), random));
  const result = replayTrace(trace, { expected, repeat: 1, debug: random.below(8) === 0 });
  assert.deepEqual([result.failures, result.mismatches], [0, []]);
  assert.deepEqual(
    result.pools.map((p) => [
      p.name,
      p.blockSize,
      p.allocation,
      p.blocksPerPage,
      p.pages,
      p.maxActive,
      p.allocs,
      p.frees,
    ]),
    recording.pools.map((p) => [p.name, p.size, p.allocation, p.perPage, p.pages, p.peak, p.allocs, p.frees]),
  );
  assert.deepEqual(
    result.pools.map(({ kernelPages }) => kernelPages),
    recording.pools.map(({ pages }) => pages),
  );
  if (expected.length > 0) await disturbed(recording, random);
  await wrongFree(recording, random);
}

/** Changes one field of the last snapshot: the replay must report it. */
async function disturbed({ lines, expected }: Recording, random: Random): Promise<void> {
  const rows = expected.flatMap((line, i) => (/^pool \d /.test(line) ? [i] : []));
  const last = expected.findLastIndex((line) => line.startsWith('## snapshot=end'));
  const candidates = rows.filter((row) => last !== -1 && row > last);
  if (candidates.length === 0) return;
  const at = candidates[random.below(candidates.length)]!;
  const [, name, active, blocks, size, pages] = /^(pool \d) +(\d+) +(\d+) +(\d+) +(\d+)$/.exec(expected[at]!)!;
  const field = (['name', 'active', 'size', 'pages'] as const)[random.below(4)]!;
  if (field === 'pages' && pages === '0') return;
  const changed = {
    name: field === 'name' ? 'other' : name!,
    active: Number(active) + (field === 'active' ? 1 : 0),
    size: Number(size) + (field === 'size' ? 1 : 0),
    pages: Number(pages) - (field === 'pages' ? 1 : 0),
  };
  const row = `${changed.name} ${[changed.active, blocks, changed.size, changed.pages].map(String).join(' ')}`;
  const files = await readPools([bytesOf(expected.with(at, row))]);
  const { mismatches } = await replay([bytesOf(lines)], files);
  assert.deepEqual(
    mismatches.map((each) => each.field),
    [field],
  );
}

/** Frees a block that is not allocated at the end: exactly one failure. */
async function wrongFree({ lines, pools, out }: Recording, random: Random): Promise<void> {
  const pool = pools.findIndex(({ allocs }) => allocs > 0);
  if (pool === -1) return;
  const isOut = (block: number): boolean => out.some((each) => each.pool === pool && each.block.block === block);
  const block = random.below(3);
  if (isOut(block)) return;
  const free = `9999999\t0\tfree\t${String(pool)}\t${String(block)}\t0\t0\t1000\t0\t1`;
  assert.equal((await replay([bytesOf([...lines, free])])).failures, 1);
}

const WILD: readonly string[] = [
  ...['-1', '0', '1', '2', '15', '17', '65536', '16777216', '2147483647', '2147483648', '4294967295', '4294967296'],
  ...['9007199254740991', '9007199254740992', '1e9', '0x10', 'NaN', '', ' ', '٣', '\u0000', '1.5', '-', '#', '\r'],
];

/** Returns a recording with random damage. */
function damage(random: Random): Uint8Array[] {
  const { lines } = new Recording(random);
  const kinds = random.below(7);
  for (let count = random.below(5); count >= 0 && kinds !== 5 && kinds !== 6; count--) {
    const at = random.below(lines.length);
    const line = lines[at]!;
    const fields = line.split('\t');
    switch (kinds) {
      case 0:
        fields[random.below(fields.length)] = WILD[random.below(WILD.length)]!;
        lines[at] = fields.join('\t');
        break;
      case 1:
        lines[at] = line.slice(0, random.below(line.length));
        break;
      case 2:
        lines.splice(at, 1);
        break;
      case 3:
        lines.splice(random.below(lines.length), 0, line);
        break;
      case 4:
        lines[at] = lines[random.below(lines.length)]!;
        break;
    }
  }
  const bytes = Uint8Array.from(kinds === 6 ? gzipSync(bytesOf(lines)) : bytesOf(lines));
  if (kinds >= 5) {
    for (let flips = random.below(8); flips >= 0; flips--) {
      bytes[random.below(bytes.length)]! ^= 1 << random.below(8);
    }
    return [bytes.subarray(0, random.below(3) === 0 ? random.below(bytes.length) : bytes.length)];
  }
  return sourceOf(bytes, random);
}

async function damaged(random: Random): Promise<void> {
  const source = damage(random);
  const begin = performance.now();
  try {
    const { failures, mismatches } = await replay(source);
    assert.ok(failures >= mismatches.length);
  } catch (error) {
    if (!(error instanceof DmaTraceError)) throw error;
    assert.ok(error.line >= 1 && error.message.length < 1000);
  }
  assert.ok(performance.now() - begin < PATIENCE, 'in bounded time');
}

/** Checks that each limit is accepted, and that one more is refused. */
async function beyond(random: Random): Promise<void> {
  const { lines } = new Recording(new Random(random.below(2 ** 31)));
  const create = (i: number, device: string, name = 'pool', size: number | string = 64): string =>
    `1\t0\tcreate\t${String(1000 + i)}\t${device}\t${name}\t${String(size)}\t0\t0\t64\t4096\t4096`;
  const many = (count: number, make: (i: number) => string): string[] =>
    Array.from({ length: count }, (_, i) => make(i));
  const cases: readonly ((over: 0 | 1) => string[])[] = [
    (over) => [create(0, 'n'.repeat(TRACE_LIMIT.name + over))],
    (over) => [create(0, 'dev', 'n'.repeat(TRACE_LIMIT.name + over))],
    (over) => [create(0, 'dev', 'pool', '64'.padStart(TRACE_LIMIT.digits + over, '0'))],
    (over) => many(TRACE_LIMIT.devices + over, (i) => create(i, `dev ${String(i)}`)),
    (over) => many(TRACE_LIMIT.pools + over, (i) => create(i, 'dev')),
    (over) =>
      many(
        2 * (TRACE_LIMIT.snapshots + over),
        (i) => `1\t0\tsnap\t${i % 2 === 0 ? 'begin' : 'end'}\ts${String(i >> 1)}`,
      ),
    (over) => [`#k\t${'v'.repeat(TRACE_LIMIT.line - 3 + over)}`],
    (over) => [...many(16, () => `#${'r'.repeat(TRACE_LIMIT.header / 16 - 2)}`), ...(over === 0 ? [] : ['#'])],
  ];
  const make = cases[random.below(cases.length)]!;
  assert.equal(typeof (await decodeTrace(sourceOf(bytesOf(make(0)), random))).slots, 'number');
  await assert.rejects(decodeTrace(sourceOf(bytesOf(make(1)), random)), DmaTraceError);
  assert.ok(lines.length > 0);
}

export const traceTarget: FuzzTarget = {
  name: 'trace',
  async runCase(seed) {
    const random = new Random(seed);
    const pick = random.below(20);
    if (pick < 9) await whole(random);
    else if (pick < 19) await damaged(random);
    else await beyond(random);
  },
};
