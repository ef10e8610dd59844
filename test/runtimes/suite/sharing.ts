/** Checks of a pool of several threads, for every runtime with shared memory. */
import { Device, DmaPool, HeapMemory } from '../../../src/index.ts';
import { attachPool, sharePool } from '../../../src/shared/index.ts';
import { type Check, ok, refused, same, sleep } from './check.ts';
import { type Connect, hammer, Peer } from './peer.ts';

interface Bench {
  readonly memory: HeapMemory;
  readonly device: Device;
  readonly lines: string[];
  readonly pool: DmaPool;
  /** A further thread attached to the pool. */
  readonly join: () => Promise<{ readonly peer: Peer; readonly worker: number; readonly thread: number }>;
  /** Checks that every block is free. */
  readonly end: () => void;
}

/** @param tells True if the runtime reports the exit of a worker to its parent. */
export function sharingChecks(connect: Connect, tells: boolean): readonly Check[] {
  const check = (name: string, run: (bench: Bench) => Promise<void>): Check => ({
    name,
    async run() {
      const peers: Peer[] = [];
      try {
        await run(open(peers));
      } finally {
        for (const peer of peers) await peer.terminate();
      }
    },
  });

  function open(peers: Peer[]): Bench {
    const lines: string[] = [];
    const write = (line: string): void => void lines.push(line);
    const memory = new HeapMemory({ limit: 1024 * 1024 });
    const device = new Device({ name: 'nic', memory, log: { error: write, warn: write, info: write } });
    const pool: DmaPool = DmaPool.create('rx', device, { size: 256, maxBlocks: 64 });
    return {
      memory,
      device,
      lines,
      pool,
      async join() {
        const handle = sharePool(pool).handle;
        const peer = new Peer(connect);
        peers.push(peer);
        const { worker, thread, name } = await peer.call('attach', handle);
        same(name, 'rx');
        return { peer, worker, thread };
      },
      end() {
        same(pool.statistics().active, 0, 'allocated blocks');
        pool.destroy();
        same(memory.bytesInUse, 0);
      },
    };
  }

  return [
    check('a worker attaches by the handle and sees the same blocks', async ({ pool, join, end }) => {
      const before = pool.alloc();
      const { peer, worker, thread } = await join();
      same([sharePool(pool).worker, worker], [1, 2]);
      ok(thread !== sharePool(pool).thread, 'threads have distinct numbers');
      const indices = await peer.call('take', 10, 42);
      for (const index of indices) same(new Uint8Array(pool.bytesOf(index))[0], 42);
      ok(!indices.includes(before.index), 'blocks that were allocated before sharing are not allocated again');
      same(pool.statistics().active, 11);
      await peer.call('freeAll');
      pool.free(before);
      await peer.call('leave');
      end();
    }),

    check('a block can be transferred there and back, and has one owner at a time', async ({ pool, join, end }) => {
      const { peer } = await join();
      const block = pool.alloc();
      block.u32[0] = 41;
      const ticket = sharePool(pool).transfer(block);
      await refused('ERR_DMAPOOL_NOT_OWNER', () => {
        pool.free(block);
      });
      const back = await peer.call('increment', ticket);
      await refused('ERR_DMAPOOL_BAD_TICKET', () => sharePool(pool).accept(ticket));
      same(sharePool(pool).accept(back) === block, true, 'the same object here');
      same(block.u32[0], 42);
      const [theirs] = await peer.call('take', 1, 1);
      await refused('ERR_DMAPOOL_NOT_OWNER', () => {
        pool.freeIndex(theirs!);
      });
      const refusal = await peer.call('freeIndex', block.index).then(
        () => null,
        (error: unknown) => (error as { code: unknown }).code,
      );
      same(refusal, 'ERR_DMAPOOL_NOT_OWNER');
      await peer.call('freeAll');
      pool.free(block);
      await peer.call('leave');
      end();
    }),

    check('a waiter in each thread gets the blocks that the other thread frees', async ({ pool, join, end }) => {
      const { peer } = await join();
      const hogged = await peer.call('hog');
      // The other thread cannot allocate idle blocks of this thread at once.
      const mine: number[] = [];
      for (let index = pool.tryAllocIndex(); index >= 0; index = pool.tryAllocIndex()) mine.push(index);
      same(hogged + mine.length, 64);
      await refused('ERR_DMAPOOL_TIMEOUT', () => pool.allocWait({ timeout: 20 }));
      const waiting = pool.allocWait({ timeout: 5000 });
      const freed = await peer.call('freeOne');
      const block = await waiting;
      same(block.index, freed);
      block.u32[0] = 7;
      const theirs = peer.call('waitForOne', 5000);
      await sleep(20);
      pool.free(block);
      same(await theirs, 7, 'the word written here');
      await peer.call('freeAll');
      for (const index of mine) pool.freeIndex(index);
      await peer.call('leave');
      end();
    }),

    check('three threads allocate and free concurrently, and no block has two owners', async ({ pool, join, end }) => {
      const [{ peer: first }, { peer: second }] = [await join(), await join()];
      const all = [first.call('hammer', 20_000, 1), second.call('hammer', 20_000, 2)];
      hammer(pool, 20_000, 3);
      await Promise.all(all);
      await first.call('leave');
      await second.call('leave');
      end();
    }),

    check('the blocks of a dead worker are reported, kept, and reclaimed', async ({ pool, lines, join, end }) => {
      const { peer, worker, thread } = await join();
      const [index] = await peer.call('take', 3, 9);
      await peer.terminate();
      for (let tries = 0; tries < 40 && tells && lines.length === 0; tries++) await sleep(25);
      if (!tells) same(sharePool(pool).reportWorkerExit(thread).length, 1);
      same(lines.length, 1, lines.join('\n'));
      ok(lines[0]!.includes(`worker ${String(worker)}`) && lines[0]!.includes('3 blocks out'), lines[0]!);
      same(pool.statistics().active, 3);
      same(pool.bytesOf(index!)[0], 9, 'a device may still write there');
      same(sharePool(pool).reclaim(), 3);
      // All idle blocks of its magazine are free again.
      const all = new Int32Array(64);
      pool.allocIndexBulk(all);
      pool.freeIndexBulk(all);
      end();
    }),

    check(
      'sharing refuses invalid options, and attaching refuses all but a handle',
      async ({ pool, device, join, end }) => {
        const boundless = DmaPool.create('boundless', device, { size: 64 });
        await refused('ERR_DMAPOOL_NOT_SHAREABLE', () => sharePool(boundless).handle);
        boundless.free(boundless.alloc());
        boundless.destroy();
        await refused('ERR_DMAPOOL_INVALID_ARGUMENT', () => attachPool({} as never).pool);
        const { peer } = await join();
        // For example a handle that lost its memory in transit.
        const handle = { ...sharePool(pool).handle, control: new ArrayBuffer(64) as never };
        await refused('ERR_DMAPOOL_INVALID_ARGUMENT', () => attachPool(handle).pool);
        await peer.call('leave');
        const good = sharePool(pool).handle;
        end();
        await refused('ERR_DMAPOOL_DESTROYED', () => attachPool(good).pool);
      },
    ),
  ];
}
