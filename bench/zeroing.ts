/**
 * Measures zeroed allocations: nanoseconds for `allocIndex({ zero: true })` and its free, by block size and kind of
 * buffer. Several pools are alive.
 *
 *     node dist/bench/zeroing.js
 */
import { BULK, elapsedNs, now, sampleOf, WARM_CALLS } from '../src/cli/speed.ts';
import { table } from '../src/cli/style.ts';
import { type CoherentAllocator, type CoherentMemory, type CoherentRequest, Device, DmaPool } from '../src/index.ts';
import { numbersFromArguments, runtimeName } from './ours/program.ts';

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

const { repetitions } = numbersFromArguments({ repetitions: 21 });
const held = new Int32Array(BULK);

function round(pool: DmaPool): void {
  for (let i = 0; i < BULK; i++) held[i] = pool.allocIndex(ZERO);
  for (let i = 0; i < BULK; i++) pool.freeIndex(held[i]!);
}

const subjects = [SharedArrayBuffer, ArrayBuffer].flatMap((Buffer) => {
  const memory = new BufferMemory(Buffer.name, new Buffer(2 ** 22));
  const device = new Device({ name: Buffer.name, memory });
  return SIZES.map((size) => ({
    name: `${Buffer.name}, ${String(size)} bytes`,
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

const rows = subjects.map(({ name, times }) => {
  const { nsPerPairBest, nsPerPairMedian } = sampleOf(times);
  return [name, nsPerPairBest.toFixed(1), nsPerPairMedian.toFixed(1)];
});
const heading = [`${runtimeName()}: ns a pair`, 'best', 'median'];
process.stdout.write(`${table([heading, ...rows], { rule: true }).join('\n')}\n`);
