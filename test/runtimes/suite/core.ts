/** Checks of a pool of one thread, for every runtime. */
import {
  loadAcquire32,
  defaultMemory,
  Device,
  dmaBitMask,
  type DeviceLog,
  DmaPool,
  HeapMemory,
  lower32Bits,
  storeRelease32,
  readAddress64,
  upper32Bits,
  writeAddress64,
} from '../../../src/index.ts';
import { countsOf, tryAllocBulk } from '../../support/pools.ts';
import { type Check, ok, refused, same, sleep } from './check.ts';

interface Bench {
  readonly memory: HeapMemory;
  readonly device: Device;
  /** The logged lines, each with its level. */
  readonly lines: string[];
}

function bench(limit: number = 1024 * 1024): Bench {
  const lines: string[] = [];
  const log: DeviceLog = {
    error: (line) => void lines.push(`error: ${line}`),
    warn: (line) => void lines.push(`warn: ${line}`),
    info: (line) => void lines.push(`info: ${line}`),
  };
  const memory = new HeapMemory({ limit });
  return { memory, device: new Device({ name: '0000:00:02.0', memory, log }), lines };
}

export const coreChecks: readonly Check[] = [
  {
    name: 'a fresh page gives ascending blocks within their boundary, and the last freed block is allocated first',
    run(): void {
      const { memory, device } = bench();
      const pool = DmaPool.create('ehci_qtd', device, { size: 96, align: 32, boundary: 4096 });
      same(pool.geometry.blocksPerPage, 42);
      const blocks = Array.from({ length: 43 }, () => pool.alloc());
      const first = blocks[0]!.dma;
      for (let i = 0; i < 42; i++) same(blocks[i]!.dma, first + 96 * i, 'address');
      same(blocks[42]!.dma % 4096, 0, 'offset in the second page');
      same(countsOf(pool), { active: 43, blocks: 84, pages: 2 });
      pool.free(blocks[7]!);
      pool.free(blocks[3]!);
      same(pool.alloc() === blocks[3], true, 'the last freed block comes first');
      same(pool.alloc() === blocks[7], true, 'then the one before');
      pool.freeBulk(blocks);
      pool.destroy();
      same(memory.bytesInUse, 0);
    },
  },
  {
    name: 'index calls and bulk calls give the same blocks as single objects',
    run(): void {
      const { device } = bench();
      const one = DmaPool.create('one', device, { size: 256 });
      const many = DmaPool.create('many', device, { size: 256 });
      const indices = new Int32Array(40);
      many.allocIndexBulk(indices);
      for (const index of indices) same(one.alloc().index, index, 'index');
      many.freeIndexBulk(indices);
      for (const index of indices) one.freeIndex(index);
      const blocks: ReturnType<typeof one.alloc>[] = [];
      one.allocBulk(blocks, 40);
      for (const { index } of blocks) same(index, many.allocIndex(), 'index after the frees');
      ok(!tryAllocBulk(one, [], 1_000_000), 'more than the pool has');
      same(one.statistics().active, 40);
    },
  },
  {
    name: 'memory is zeroed on request',
    run(): void {
      const { device } = bench();
      const pool = DmaPool.create('zero', device, { size: 64, maxBlocks: 1 });
      const dirty = pool.alloc();
      dirty.bytes.fill(0xff);
      pool.free(dirty);
      same(
        pool.alloc({ zero: true }).bytes.every((byte) => byte === 0),
        true,
      );
      const clean = DmaPool.create('clean', device, { size: 64, initOnFree: true });
      const block = clean.alloc();
      const { bytes } = block;
      bytes.fill(0xff);
      clean.free(block);
      same(
        bytes.every((byte) => byte === 0),
        true,
      );
    },
  },
  {
    name: 'wrong frees are refused with their codes and change nothing',
    async run(): Promise<void> {
      const { device } = bench();
      const pool: DmaPool = DmaPool.create('a', device, { size: 64 });
      const other: DmaPool = DmaPool.create('b', device, { size: 64 });
      const block = pool.alloc();
      await refused('ERR_DMAPOOL_WRONG_POOL', () => {
        other.free(block);
      });
      await refused('ERR_DMAPOOL_BAD_ADDRESS', () => {
        pool.freeAt(block.dma + 4);
      });
      pool.free(block);
      await refused('ERR_DMAPOOL_NOT_ALLOCATED', () => {
        pool.free(block);
      });
      await refused('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
        pool.free(undefined as never);
      });
      await refused('ERR_DMAPOOL_INVALID_ARGUMENT', () => DmaPool.create('c', device, { size: 64, align: 3 }));
      same(countsOf(pool), { active: 0, blocks: 64, pages: 1 });
      pool.destroy();
      await refused('ERR_DMAPOOL_DESTROYED', () => pool.alloc());
    },
  },
  {
    name: 'an allocation fails for three reasons, and loses nothing',
    async run(): Promise<void> {
      const { memory, device } = bench(8192);
      const limited = DmaPool.create('limited', device, { size: 4096, maxBlocks: 1 });
      await refused('ERR_DMAPOOL_NO_FREE_BLOCK', () => limited.alloc({ grow: false }));
      const block = limited.alloc();
      await refused('ERR_DMAPOOL_LIMIT', () => limited.alloc());
      const greedy = DmaPool.create('greedy', device, { size: 4096 });
      greedy.alloc();
      await refused('ERR_DMAPOOL_NO_MEMORY', () => greedy.alloc());
      same(greedy.tryAlloc(), null);
      same(greedy.tryAllocIndex(), -1);
      limited.free(block);
      same(limited.trim(), 1);
      greedy.alloc();
      same(memory.bytesInUse, 8192);
      same(greedy.statistics().failures, 3);
    },
  },
  {
    name: 'addresses stay within the DMA mask',
    async run(): Promise<void> {
      const { memory } = bench();
      const isa = new Device({ name: 'isa', memory, dmaMask: dmaBitMask(24) });
      const block = DmaPool.create('floppy', isa, { size: 512 }).alloc();
      ok(block.dma + 511 < 2 ** 24, 'an address of 24 bits');
      const blind = new Device({ name: 'blind', memory, dmaMask: 100 });
      await refused('ERR_DMAPOOL_NO_MEMORY', () => DmaPool.create('none', blind, { size: 512 }).alloc());
    },
  },
  {
    name: 'a device sees its own memory, and faults at other addresses',
    async run(): Promise<void> {
      const { memory, device } = bench();
      const block = DmaPool.create('seen', device, { size: 64 }).alloc();
      memory.write(device, block.dma, Uint8Array.of(1, 2, 3));
      same([...block.bytes.subarray(0, 4)], [1, 2, 3, 0]);
      block.u32[1] = 0xc0ffee;
      const back = new Uint8Array(4);
      memory.read(device, block.dma + 4, back);
      same([...back], [0xee, 0xff, 0xc0, 0]);
      const error = await refused('ERR_DMAPOOL_IOMMU_FAULT', () => memory.translate(device, 0xdead_0000, 4));
      ok(error.message.includes('0xdead0000'), error.message);
      const stranger = new Device({ name: 'stranger', memory });
      await refused('ERR_DMAPOOL_IOMMU_FAULT', () => memory.translate(stranger, block.dma, 4));
    },
  },
  {
    name: 'words are stored and loaded in order, addresses are written without a bigint',
    run(): void {
      const { device } = bench();
      const block = DmaPool.create('words', device, { size: 64, align: 64 }).alloc({ zero: true });
      storeRelease32(block.u32, 3, 0x8000_0001);
      same(loadAcquire32(block.u32, 3), 0x8000_0001);
      writeAddress64(block.view, 16, 0x12_3456_7890);
      same(readAddress64(block.view, 16), 0x12_3456_7890);
      same([lower32Bits(0x12_3456_7890), upper32Bits(0x12_3456_7890)], [0x3456_7890, 0x12]);
      same(block.view.getUint32(20, true), 0x12);
    },
  },
  {
    name: 'managed resources are released in reverse order, and the last pool removes the attribute',
    run(): void {
      const { memory, device } = bench();
      const order: string[] = [];
      device.addAction(() => void order.push('first'));
      const pool = DmaPool.createManaged('ehci_qtd', device, { size: 96, align: 32 });
      device.addAction(() => void order.push(`last, with ${String(pool.statistics().pages)} page`));
      pool.free(pool.alloc());
      same(device.readAttribute('pools'), 'poolinfo - 0.1\nehci_qtd            0   42   96  1\n');
      device.detach();
      same(order, ['last, with 1 page', 'first']);
      same(device.readAttribute('pools'), undefined);
      same(memory.bytesInUse, 0);
    },
  },
  {
    name: 'a busy pool keeps allocated blocks until they are freed or reclaimed',
    run(): void {
      const { memory, device, lines } = bench();
      const pool = DmaPool.create('busy', device, { size: 4096 });
      const [late] = [pool.alloc(), pool.alloc()] as const;
      pool.destroy();
      ok(
        lines.some((line) => line.startsWith('error: ') && line.includes('busy busy')),
        lines.join('\n'),
      );
      same(memory.bytesInUse, 8192);
      pool.free(late);
      same(memory.bytesInUse, 8192, 'bytes until the last block is freed');
      same(device.reclaim(), 2, 'pages');
      same(memory.bytesInUse, 0);
    },
  },
  {
    name: 'debug mode detects a late write, keeps the block, and names the line of a leak',
    async run(): Promise<void> {
      const { memory, device, lines } = bench();
      const pool = DmaPool.create('ohci_td', device, { size: 32, align: 32, debug: true });
      const td = pool.alloc();
      const { bytes, dma } = td;
      same(bytes[0], 0xa9, 'poison of an allocated block');
      pool.free(td);
      same(bytes[0], 0xa7, 'poison of a free block');
      memory.write(device, dma + 4, Uint8Array.of(0x42));
      const next = pool.alloc();
      ok(next.dma !== dma, 'another block');
      same(pool.statistics().quarantined, 1);
      const report = lines.join('\n');
      ok(report.includes('was written to while free'), report);
      ok(report.includes('a7 a7 a7 a7 42 a7'), report);
      // The file's name, in the format of this engine's stacks.
      ok(/freed at .*core\.[jt]s:\d+/.test(report), report);
      pool.free(next);
      const again = pool.alloc();
      const stale = await refused('ERR_DMAPOOL_STALE_BLOCK', () => {
        pool.free(next);
      });
      ok(stale.message.includes('generation'), stale.message);
      pool.destroy();
      ok(/allocated at .*core\.[jt]s:\d+/.test(lines.at(-1) ?? ''), lines.join('\n'));
      pool.free(again);
      same(memory.bytesInUse, 0);
    },
  },
  {
    name: 'waiters are served in order, can give up, and are rejected when the pool ends',
    async run(): Promise<void> {
      const { device } = bench();
      const pool = DmaPool.create('wait', device, { size: 64, maxBlocks: 1 });
      const block = pool.alloc();
      const order: string[] = [];
      const wait = async (name: string): Promise<void> => {
        const mine = await pool.allocWait({ timeout: 5000, zero: true });
        order.push(name);
        same(mine.u32[0], 0);
        pool.free(mine);
      };
      const all = [wait('first'), wait('second')];
      const late = refused('ERR_DMAPOOL_TIMEOUT', () => pool.allocWait({ timeout: 5 }));
      const controller = new AbortController();
      const aborted = pool.allocWait({ signal: controller.signal }).then(
        () => 'served',
        (reason: unknown) => reason,
      );
      controller.abort('changed my mind');
      same(await aborted, 'changed my mind');
      await late;
      block.u32[0] = 1;
      pool.free(block);
      await Promise.all(all);
      same(order, ['first', 'second']);
      const held = pool.alloc();
      const ended = refused('ERR_DMAPOOL_DESTROYED', () => pool.allocWait());
      await sleep(1);
      pool.destroy();
      await ended;
      pool.free(held);
    },
  },
  {
    name: '100,000 random calls agree with a plain model',
    run(): void {
      const { memory, device } = bench();
      const pool = DmaPool.create('random', device, { size: 48, maxBlocks: 500 });
      const out = new Map<number, number>();
      // A linear congruential generator (Numerical Recipes): the same history everywhere.
      let seed = 42;
      const random = (below: number): number => {
        seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
        return seed % below;
      };
      for (let i = 0; i < 100_000; i++) {
        if (random(2) === 0 && out.size < 500) {
          const index = pool.allocIndex();
          ok(!out.has(index), 'allocated once');
          out.set(index, i);
          new DataView(pool.bytesOf(index).buffer, pool.bytesOf(index).byteOffset).setUint32(0, i, true);
        } else if (out.size > 0) {
          const [index, stamp] = [...out][random(Math.min(out.size, 8))]!;
          const block = pool.blockAt(pool.dmaOf(index));
          same(block?.u32[0], stamp, 'the content of the block');
          pool.freeIndex(index);
          out.delete(index);
        }
      }
      same(pool.statistics().active, out.size);
      for (const index of out.keys()) pool.freeIndex(index);
      pool.destroy();
      same(memory.bytesInUse, 0);
    },
  },
  {
    name: 'pools without a memory source use the default memory',
    run(): void {
      const device = new Device({ name: 'plain' });
      same(device.memory === defaultMemory(), true);
      const pool = DmaPool.create('plain', device, { size: 64 });
      pool.free(pool.alloc());
      pool[Symbol.dispose]();
      device[Symbol.dispose]();
      same(defaultMemory().bytesInUse, 0);
    },
  },
];
