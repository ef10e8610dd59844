/** Random operations on a disk, against a model. */
import assert from 'node:assert/strict';
import type { NvmeNamespace } from 'dmapool/drivers/nvme';
import {} from './fixture.ts';
import { MIB } from '../../support/sizes.ts';
import { type Random } from '../../support/random.ts';

const BLOCK = 512;

/** Number of concurrent operations; none may touch blocks that another one writes. */
export class Traffic {
  readonly #disk: NvmeNamespace;
  readonly #random: Random;
  readonly #model: Uint8Array;
  readonly #largest: number;
  readonly #busy = new Set<{ readonly lba: number; readonly end: number; readonly writes: boolean }>();
  readonly done = { read: 0, write: 0, writeZeroes: 0, deallocate: 0, flush: 0 };
  bytes = 0;
  mostAtATime = 0;

  /** @param largest Size of the largest operation in bytes. */
  constructor(disk: NvmeNamespace, random: Random, model: Uint8Array, largest: number = MIB) {
    this.#disk = disk;
    this.#random = random;
    this.#model = model;
    this.#largest = largest;
  }

  /** Reads and writes so far. */
  get transfers(): number {
    return this.done.read + this.done.write;
  }

  /** One operation, on blocks that no other operation uses. */
  async operation(): Promise<void> {
    const random = this.#random;
    // Small and large operations are equally frequent: sizes are spread over the powers of two.
    const size = BLOCK * Math.floor((this.#largest / BLOCK) ** (random.below(1e6) / (1e6 - 1)));
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
      // A deallocated block may keep its content or read as zeros; it does not change after that.
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
