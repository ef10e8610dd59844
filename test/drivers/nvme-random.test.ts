/** Random traffic against a model, on a real device model: what is on the disk is what the model says, byte for byte. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import type { NvmeNamespace } from 'dmapool/drivers/nvme';
import { withoutQemu } from '../qemu/qemu.ts';
import { assertIdle, closeNvme, MIB, Random, startNvme } from './nvme-fixture.ts';

const BLOCK = 512;
const LARGEST = MIB;

/** Operations side by side, none of which may touch what another one writes. */
class Traffic {
  readonly #disk: NvmeNamespace;
  readonly #random: Random;
  readonly #model: Uint8Array;
  readonly #busy = new Set<{ readonly lba: number; readonly end: number; readonly writes: boolean }>();
  readonly done = { read: 0, write: 0, writeZeroes: 0, deallocate: 0, flush: 0 };
  bytes = 0;
  mostAtATime = 0;

  constructor(disk: NvmeNamespace, random: Random, model: Uint8Array) {
    this.#disk = disk;
    this.#random = random;
    this.#model = model;
  }

  /** Reads and writes so far. */
  get transfers(): number {
    return this.done.read + this.done.write;
  }

  /** One operation, on blocks that nobody else uses. */
  async operation(): Promise<void> {
    const random = this.#random;
    // As many small ones as large ones: sizes are spread over the powers of two.
    const size = BLOCK * Math.floor((LARGEST / BLOCK) ** (random.below(1e6) / (1e6 - 1)));
    const kind = random.below(100);
    const writes = kind >= 48;
    const blocks = size / BLOCK;
    const lba = random.below(this.#disk.blocks - blocks + 1);
    const mine = { lba, end: lba + blocks, writes };
    for (const other of this.#busy) {
      if (mine.lba < other.end && other.lba < mine.end && (writes || other.writes)) return;
    }
    this.#busy.add(mine);
    this.mostAtATime = Math.max(this.mostAtATime, this.#busy.size);
    try {
      await this.#run(kind, lba, size);
      this.bytes += size;
    } finally {
      this.#busy.delete(mine);
    }
  }

  async #run(kind: number, lba: number, size: number): Promise<void> {
    const disk = this.#disk;
    const there = this.#model.subarray(lba * BLOCK, lba * BLOCK + size);
    if (kind < 48) {
      const buffer = Buffer.alloc(size, 0xee);
      await disk.read(lba, buffer);
      if (!buffer.equals(there)) assert.fail(`read of ${String(size)} bytes at ${String(lba)} differs from the model`);
      this.done.read++;
    } else if (kind < 96) {
      const buffer = this.#random.fill(Buffer.alloc(size));
      await disk.write(lba, buffer, { fua: kind === 50 });
      there.set(buffer);
      this.done.write++;
    } else if (kind < 98) {
      await disk.writeZeroes(lba, size / BLOCK, { deallocate: kind === 96 });
      there.fill(0);
      this.done.writeZeroes++;
    } else if (kind === 98) {
      await disk.deallocate([{ lba, blocks: size / BLOCK }]);
      // It may be left as it is, or read as zeros; what it is stays so.
      const buffer = Buffer.alloc(size);
      await disk.read(lba, buffer);
      there.set(buffer);
      this.done.deallocate++;
    } else {
      await disk.flush();
      this.done.flush++;
    }
  }
}

void test(
  '5,000 random reads and writes on two queue pairs leave the disk as the model says',
  { skip: withoutQemu },
  async (t) => {
    const seed = Number(process.env['DMAPOOL_SEED'] ?? Date.now() % 2 ** 31);
    t.diagnostic(`DMAPOOL_SEED=${String(seed)}`);
    const random = new Random(seed);
    const bench = await startNvme(t, {
      bench: { size: 64 * MIB, drive: { cache: 'unsafe' } },
      queues: 2,
      queueDepth: 64,
    });
    const { nvme, disk } = bench;
    assert.equal(nvme.queues, 2);
    assert.equal(nvme.maxTransfer, MIB / 2, 'the largest transfers are cut');
    const model = new Uint8Array(disk.size);
    const traffic = new Traffic(disk, random, model);
    while (traffic.transfers < 5000) {
      const end = Math.min(5000, traffic.transfers + 100 + random.below(400));
      const worker = async (): Promise<void> => {
        while (traffic.transfers < end) {
          await traffic.operation();
          // Of two that meet, one gives up without having waited for anything.
          await Promise.resolve();
        }
      };
      const depth = 1 + random.below(64);
      await Promise.all(Array.from({ length: depth }, worker));
      assertIdle(nvme);
    }
    t.diagnostic(
      `${JSON.stringify(traffic.done)}, ${String(Math.round(traffic.bytes / MIB))} MiB, up to ${String(traffic.mostAtATime)} at a time`,
    );
    assert.ok(traffic.mostAtATime > 32 && traffic.mostAtATime <= 64, String(traffic.mostAtATime));
    const { submitted, resets, timeouts } = nvme.statistics();
    assert.ok(
      submitted.every((count) => count > 1000),
      `both queues were used: ${submitted.join(', ')}`,
    );
    assert.deepEqual({ resets, timeouts }, { resets: 0, timeouts: 0 });
    for (const pool of nvme.pools) assert.ok(pool.statistics().allocations > 1000, pool.name);
    await disk.flush();
    await closeNvme(bench);
    await bench.machine.close();
    assert.ok(readFileSync(bench.file).equals(model), 'the image differs from the model');
  },
);
