/** Another device misbehaves: it overwrites every free block of the NVMe driver's pools during operation. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { type CoherentMemory, dmaBitMask, type DmaPool, lower32Bits, upper32Bits } from 'dmapool';
import { isAllocated } from '../../support/pools.ts';
import type { PciFunction } from 'dmapool/pci';
import { EDU, startMachine, withoutQemu } from '../../qemu/qemu.ts';
import { assertIdle, closeNvme, startNvme } from './fixture.ts';
import { MIB } from '../../support/sizes.ts';
import { Random } from '../../support/random.ts';

/** Most bytes that edu moves at a time without aborting QEMU. */
const MOST = 4095;
/** Milliseconds between two checks whether edu is done; a transfer takes it 100 ms. */
const LOOK = 10;

/** Starts a copy by edu between its buffer and memory; resolves when the copy is done. */
async function transfer(edu: PciFunction, dma: number, count: number, toMemory: boolean): Promise<void> {
  const bar = edu.bar(0);
  const set = (register: number, value: number): void => {
    bar.write32(register, lower32Bits(value));
    bar.write32(register + 4, upper32Bits(value));
  };
  bar.write64(toMemory ? EDU.destination : EDU.source, dma);
  bar.write64(toMemory ? EDU.source : EDU.destination, EDU.buffer);
  set(EDU.count, count);
  bar.write64(EDU.command, toMemory ? 3 : 1);
  const end = performance.now() + 20_000;
  do {
    assert.ok(performance.now() < end, 'edu does not finish its transfer');
    await new Promise((resolve) => setTimeout(resolve, LOOK));
  } while (((await bar.read64(EDU.command)) & 1n) !== 0n);
}

/** Fills edu's buffer with a pattern. */
async function load(edu: PciFunction, pattern: number): Promise<void> {
  const memory = edu.device.allocCoherent(4096)!;
  new Uint8Array(memory.buffer, memory.byteOffset, 4096).fill(pattern);
  await edu.enableBusMaster();
  await transfer(edu, memory.dma, MOST, false);
  edu.device.freeCoherent(memory);
}

/** Indices of a pool's free blocks. */
function freeBlocks(pool: DmaPool): number[] {
  return Array.from({ length: pool.statistics().blocks }, (_, i) => i).filter((index) => !isAllocated(pool, index));
}

/** Makes these free blocks the last ones to be allocated. */
function putLast(pool: DmaPool, last: ReadonlySet<number>): void {
  const free = freeBlocks(pool);
  for (const index of free) assert.ok(pool.tryAllocIndex() >= 0, String(index));
  // The free list is LIFO.
  for (const index of free.filter((each) => last.has(each))) pool.freeIndex(index);
  for (const index of free.filter((each) => !last.has(each))) pool.freeIndex(index);
}

void describe('a rogue device', { skip: withoutQemu }, () => {
  void it('that overwrites every free block of the NVMe pools during operation affects no operation', async (t) => {
    const rogues = ['edu0', 'edu1', 'edu2', 'edu3'];
    const bench = await startNvme(t, {
      queues: 2,
      queueDepth: 8,
      bench: {
        size: 8 * MIB,
        // A device that reaches all memory.
        devices: rogues.map((id) => ({ driver: 'edu', id, dma_mask: '0xffffffffffffffff' })),
      },
    });
    const { nvme, disk, machine, log } = bench;
    const random = new Random(Date.now());
    const model = random.fill(Buffer.alloc(disk.size)) as Buffer;
    await disk.write(0, model);

    // Concurrent traffic that needs blocks of all three pools, each on its own part of the disk.
    let working = true;
    let operations = 0;
    const workers = 3;
    const part = Math.floor(disk.blocks / workers);
    const worker = async (_: unknown, i: number): Promise<void> => {
      const buffer = Buffer.alloc(35 * 4096);
      while (working) {
        const bytes = buffer.subarray(0, [512, 3 * 4096, 8 * 4096, 35 * 4096][random.below(i === 0 ? 4 : 3)]);
        const lba = i * part + random.below(part - bytes.length / 512);
        const there = model.subarray(lba * 512, lba * 512 + bytes.length);
        if (random.below(2) === 0) {
          await disk.write(lba, random.fill(bytes));
          there.set(bytes);
        } else {
          bytes.fill(0);
          await disk.read(lba, bytes);
          if (!bytes.equals(there)) assert.fail(`${String(bytes.length)} bytes at ${String(lba)} differ`);
        }
        operations++;
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
    };
    // More than twice as many blocks as the traffic needs at a time: 35 + 8 + 8 pages, one list, three small ones.
    for (const [i, count] of [128, 16, 32].entries()) {
      nvme.pools[i]!.trim();
      nvme.pools[i]!.reserve(count);
    }
    const running = Array.from({ length: workers }, worker);
    const trouble = Promise.all(running);

    const devices = await Promise.all(rogues.map((id) => machine.open(id, { dmaMask: dmaBitMask(64) })));
    await Promise.all(devices.map((edu, i) => load(edu, 0xa0 + i)));
    const begin = performance.now();
    const done = operations;
    let overwritten = 0;
    for (const pool of nvme.pools) {
      const { blockSize } = pool.geometry;
      const attacked = new Set<number>();
      // Half of them at a time are moved to the end of the list, and so stay free while they are overwritten.
      while (attacked.size < pool.statistics().blocks) {
        assert.ok(performance.now() - begin < 60_000, `${pool.name}: ${String(attacked.size)} blocks were overwritten`);
        const left = freeBlocks(pool).filter((index) => !attacked.has(index));
        // The remaining ones are allocated at the moment.
        if (left.length === 0) await Promise.race([new Promise((resolve) => setTimeout(resolve, 1)), trouble]);
        const targets = left.slice(0, Math.ceil(pool.statistics().blocks / 2));
        putLast(pool, new Set(targets));
        const attack = async (edu: PciFunction, first: number): Promise<void> => {
          for (let i = first; i < targets.length; i += devices.length) {
            const index = targets[i]!;
            // A block in as many transfers as edu needs: a page is one byte too long for one transfer.
            for (let at = 0; at < blockSize; at += MOST) {
              await transfer(edu, pool.dmaOf(index) + at, Math.min(MOST, blockSize - at), true);
            }
            assert.ok(!isAllocated(pool, index), 'it was free all the time');
            const [byte] = pool.bytesOf(index);
            assert.ok(pool.bytesOf(index).every((each) => each === byte) && byte! >= 0xa0, 'it was overwritten');
            attacked.add(index);
            overwritten++;
          }
        };
        await Promise.race([Promise.all(devices.map(attack)), trouble]);
      }
    }
    const seconds = (performance.now() - begin) / 1000;
    working = false;
    await trouble;
    t.diagnostic(
      `${String(overwritten)} free blocks overwritten in ${seconds.toFixed(1)} s, during ${String(operations - done)} operations`,
    );
    assert.ok(operations - done > 100, 'the driver worked meanwhile');
    assert.ok(seconds < 60);
    assertIdle(nvme);

    // The allocator is unchanged: every block is allocated once, and freed.
    for (const pool of nvme.pools) {
      const { blocks } = pool.statistics();
      const all = new Int32Array(blocks);
      pool.allocIndexBulk(all);
      assert.equal(new Set(all).size, blocks);
      assert.equal(new Set(Array.from(all, (index) => pool.dmaOf(index))).size, blocks);
      assert.equal(pool.statistics().blocks, blocks, 'without a new page');
      pool.freeIndexBulk(all);
    }
    const back = Buffer.alloc(disk.size);
    await disk.read(0, back);
    assert.ok(back.equals(model), 'the disk equals the model');
    assert.equal(nvme.statistics().resets, 0);
    assert.equal(log.text, '');
    for (const edu of devices) await edu.close();
    await closeNvme(bench);
  });

  void it('of 28 address bits gets no address that it cannot reach, on a machine of 1 GiB', async (t) => {
    const mask = dmaBitMask(28);
    const machine = await startMachine(t, { memory: 1024 * MIB, devices: ['edu,id=edu0'] });
    const edu = await machine.open('edu0', { dmaMask: mask });
    const { device } = edu;
    await edu.enableBusMaster();
    const given: CoherentMemory[] = [];
    // Large areas use most of the memory below 256 MiB; then pages use the rest.
    for (const size of [16 * MIB, MIB, 4096]) {
      for (;;) {
        const memory = device.allocCoherent(size);
        if (memory === null) break;
        assert.ok(memory.dma + size - 1 <= mask, `0x${memory.dma.toString(16)}`);
        given.push(memory);
      }
    }
    const bytes = given.reduce((sum, { size }) => sum + size, 0);
    assert.ok(bytes > 250 * MIB && bytes <= 256 * MIB, `${String(bytes / MIB)} MiB, though the machine has 1 GiB`);
    // The lowest and the highest page: edu transfers at exactly the given addresses, both ways. QEMU would warn of an
    // address beyond.
    given.sort((a, b) => a.dma - b.dma);
    const highest = given.at(-1)!;
    assert.ok(highest.dma > 2 ** 27, 'the highest bit is used');
    for (const [memory, at] of [
      [given[0]!, 0],
      [highest, highest.size - 4096],
    ] as const) {
      const view = new Uint8Array(memory.buffer, memory.byteOffset + at, 4096);
      view.set(new Random(at + 1).fill(new Uint8Array(100)));
      await transfer(edu, memory.dma + at, 100, false);
      await transfer(edu, memory.dma + at + 3996, 100, true);
      assert.deepEqual(view.subarray(3996), view.subarray(0, 100));
    }
    assert.equal(machine.output, '');
    for (const memory of given) device.freeCoherent(memory);
    // A device with a larger mask gets the rest of the machine.
    device.setDmaMask(dmaBitMask(32));
    const high = device.allocCoherent(512 * MIB)!;
    assert.ok(high.dma + high.size - 1 > mask);
    device.freeCoherent(high);
    await edu.close();
  });
});
