/**
 * Measures zeroed allocations: nanoseconds for `allocIndex({ zero: true })` and its free, by block size and kind of
 * buffer. Several pools are alive.
 *
 *     npm run bench:zeroing -- [--repetitions N] [--json 1]
 */
import { BULK, elapsedNs, now, sampleOf, WARM_CALLS } from '../src/cli/speed.ts';
import { table } from '../src/cli/style.ts';
import { type CoherentAllocator, type CoherentMemory, type CoherentRequest, Device, DmaPool } from '../src/index.ts';
import { numbersFromArguments, printLine, runtimeName } from './ours/program.ts';

export interface ZeroingRow {
  readonly size: number;
  /** Kind of buffer: `SharedArrayBuffer` or `ArrayBuffer`. */
  readonly buffer: string;
  /** Nanoseconds of a pair. */
  readonly best: number;
  readonly median: number;
}

const SIZES = [16, 64, 256, 1024, 4096, 16_384];
const PAGE = 16_384;
const ZERO = { zero: true };

/** Pages of one buffer. Never frees. */
class BufferMemory implements CoherentAllocator {
  readonly name: string;
  readonly pageSize = PAGE;
  readonly #buffer: ArrayBuffer | SharedArrayBuffer;
  #taken = 0;

  constructor(name: string, buffer: ArrayBuffer | SharedArrayBuffer) {
    this.name = name;
    this.#buffer = buffer;
  }

  allocCoherent({ size }: CoherentRequest): CoherentMemory {
    const byteOffset = this.#taken;
    this.#taken += PAGE;
    return { dma: PAGE + byteOffset, size, buffer: this.#buffer, byteOffset };
  }

  freeCoherent(): void {
    // The process ends soon.
  }
}

const { repetitions, json } = numbersFromArguments({ repetitions: 21, json: 0 });
const held = new Int32Array(BULK);

function round(pool: DmaPool): void {
  for (let i = 0; i < BULK; i++) held[i] = pool.allocIndex(ZERO);
  for (let i = 0; i < BULK; i++) pool.freeIndex(held[i]!);
}

const subjects = [SharedArrayBuffer, ArrayBuffer].flatMap((Buffer) => {
  const memory = new BufferMemory(Buffer.name, new Buffer(2 ** 22));
  const device = new Device({ name: Buffer.name, memory });
  return SIZES.map((size) => ({
    size,
    buffer: Buffer.name,
    pool: DmaPool.create(String(size), device, { size }),
    // About a millisecond a repetition.
    rounds: Math.ceil(1e6 / (BULK * (30 + size / 8))),
    times: [] as number[],
  }));
});

for (let call = 0; call < WARM_CALLS; call++) for (const { pool } of subjects) round(pool);
for (let repetition = 0; repetition < repetitions; repetition++) {
  for (const { pool, rounds, times } of subjects) {
    const start = now();
    for (let i = 0; i < rounds; i++) round(pool);
    times.push(elapsedNs(start, now()) / (rounds * BULK));
  }
}

const rows: readonly ZeroingRow[] = subjects.map(({ size, buffer, times }) => {
  const { nsPerPairBest, nsPerPairMedian } = sampleOf(times);
  return { size, buffer, best: nsPerPairBest, median: nsPerPairMedian };
});
if (json === 0) {
  const cells = rows.map((row) => [
    `${row.buffer}, ${String(row.size)} bytes`,
    row.best.toFixed(1),
    row.median.toFixed(1),
  ]);
  process.stdout.write(
    `${table([[`${runtimeName()}: ns a pair`, 'best', 'median'], ...cells], { rule: true }).join('\n')}\n`,
  );
} else {
  printLine(rows);
}
