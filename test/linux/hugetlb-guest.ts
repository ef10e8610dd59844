/**
 * Tests of memory of hugepages; run as root by hugetlb.test.ts in the virtual machine, where 48 hugepages of 2 MiB are
 * free on two NUMA nodes.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { type CoherentMemory, Device, dmaBitMask, DmaError, DmaPool } from 'dmapool';
import { sharePool } from 'dmapool/shared';
import { HugepageError, HugetlbMemory } from 'dmapool/linux';
import { registerConformance } from '../memory/conformance-node.ts';
import { readPhysical } from './kcore.ts';
import { footprint, SystemFaults } from './system-faults.ts';
import { MIB } from '../support/sizes.ts';

const HUGE = 2 * MIB;
const SYSFS = '/sys/kernel/mm/hugepages/hugepages-2048kB';

function free(node = -1): number {
  const folder = node === -1 ? SYSFS : `/sys/devices/system/node/node${String(node)}/hugepages/hugepages-2048kB`;
  return Number(readFileSync(`${folder}/free_hugepages`, 'utf8'));
}

registerConformance('hugetlb memory', {
  create: () => new HugetlbMemory({ size: 8 * MIB }),
  close: (source) => {
    (source as HugetlbMemory).close();
  },
});

void describe('hugetlb memory', () => {
  void it('has the physical addresses that it reports, throughout', () => {
    const memory = new HugetlbMemory({ size: 8 * HUGE });
    const device = new Device({ name: 'd', memory });
    checkPhysical(allocateAll(memory, device), memory);
    memory.close();
  });

  void it('is sorted when the kernel gives it out of order', () => {
    // Every other page is held, so that no two free pages are adjacent.
    const single = Array.from({ length: 24 }, () => new HugetlbMemory({ size: HUGE }));
    single.sort((a, b) => a.runs[0]!.dma - b.runs[0]!.dma);
    single.forEach((memory, index) => {
      if (index % 2 === 0) memory.close();
    });
    const held = new Set(single.filter((_, index) => index % 2 === 1).map((memory) => memory.runs[0]!.dma));
    const rest = new HugetlbMemory({ size: free() * HUGE });
    assert.ok(rest.runs.length > 4, `${String(rest.runs.length)} runs`);
    for (const { dma, size } of rest.runs) {
      for (let at = dma; at < dma + size; at += HUGE) assert.ok(!held.has(at));
    }
    checkPhysical(allocateAll(rest, new Device({ name: 'd', memory: rest })), rest);
    rest.close();
    for (const memory of single) memory.close();
  });

  void it('is merged where it is contiguous: an allocation may be larger than a hugepage', () => {
    const memory = new HugetlbMemory({ size: 16 * HUGE });
    assert.equal(
      memory.runs.reduce((sum, { size }) => sum + size, 0),
      16 * HUGE,
    );
    memory.runs.forEach(({ dma, size }, index) => {
      assert.equal(dma % HUGE, 0);
      const next = memory.runs[index + 1];
      assert.ok(next === undefined || dma + size < next.dma, 'adjacent hugepages form one run');
    });
    // The hugepages that the kernel reserved at boot are contiguous for the most part.
    const device = new Device({ name: 'd', memory });
    const large = memory.allocCoherent({ device, size: 2 * HUGE, node: -1 })!;
    assert.equal(large.dma % (2 * HUGE), 0);
    checkPhysical([large], memory);
    memory.close();
  });

  void it('respects the mask of each device', () => {
    const memory = new HugetlbMemory({ size: 4 * HUGE });
    const highest = Math.max(...memory.runs.map(({ dma, size }) => dma + size - 1));
    const lowest = Math.min(...memory.runs.map(({ dma }) => dma));
    const below = { name: 'below', dmaMask: lowest - 1 };
    assert.equal(memory.allocCoherent({ device: below, size: 4096, node: -1 }), null);
    const within = { name: 'within', dmaMask: lowest + 8191 };
    const taken = [1, 2].map(() => memory.allocCoherent({ device: within, size: 4096, node: -1 })!.dma);
    assert.deepEqual(
      taken.sort((a, b) => a - b),
      [lowest, lowest + 4096],
    );
    assert.equal(memory.allocCoherent({ device: within, size: 4096, node: -1 }), null);
    const all = { name: 'all', dmaMask: highest };
    assert.ok(memory.allocCoherent({ device: all, size: 4096, node: -1 }) !== null);
    memory.close();
  });

  void it('comes from the requested node and from no other', () => {
    for (const node of [0, 1]) {
      const other = 1 - node;
      const before = [free(node), free(other)];
      const memory = new HugetlbMemory({ size: 3 * HUGE, node });
      assert.deepEqual([free(node), free(other)], [before[0]! - 3, before[1]], `node ${String(node)}`);
      memory.close();
      assert.deepEqual([free(node), free(other)], before);
      // One more than this node has, though the other node has some.
      assert.throws(
        () => new HugetlbMemory({ size: (before[0]! + 1) * HUGE, node }),
        (error) =>
          error instanceof HugepageError &&
          error.message.includes(`on NUMA node ${String(node)}`) &&
          error.message.includes(
            `/sys/devices/system/node/node${String(node)}/hugepages/hugepages-2048kB/nr_hugepages`,
          ),
      );
      assert.deepEqual([free(node), free(other)], before);
    }
    // The thread's policy is restored.
    const everything = new HugetlbMemory({ size: free() * HUGE });
    assert.equal(free(), 0);
    everything.close();
  });

  void it('is refused when too little is reserved, with a command that fixes it', () => {
    const total = readFileSync(`${SYSFS}/nr_hugepages`, 'utf8').trim();
    const holder = new HugetlbMemory({ size: HUGE });
    try {
      const size = (free() + 2) * HUGE;
      let command = '';
      assert.throws(
        () => new HugetlbMemory({ size }),
        (error) => {
          assert.ok(error instanceof HugepageError);
          assert.equal(error.code, 'ERR_DMAPOOL_NO_HUGEPAGES');
          command = /as root: (echo .*)$/.exec(error.message)![1]!;
          return true;
        },
      );
      assert.equal(command, `echo ${String(Number(total) + 2)} > ${SYSFS}/nr_hugepages`);
      execFileSync('sh', ['-c', command]);
      new HugetlbMemory({ size }).close();
    } finally {
      holder.close();
      writeFileSync(`${SYSFS}/nr_hugepages`, total);
    }
  });

  void it('is refused to a user that may not read frame numbers, and stays free', () => {
    const before = free();
    const program = `
      import { HugetlbMemory } from 'dmapool/linux';
      try { new HugetlbMemory({ size: 4096 }); } catch (error) { console.log(error.code, error.message); }
    `;
    const root = fileURLToPath(new URL('../../../', import.meta.url));
    const unprivileged = ['--reuid', '65534', '--regid', '65534', '--clear-groups', process.execPath];
    const { stdout, stderr } = spawnSync('setpriv', [...unprivileged, '--input-type=module', '-e', program], {
      cwd: root,
      encoding: 'utf8',
    });
    assert.match(stdout, /^ERR_DMAPOOL_FRAMES_HIDDEN .*CAP_SYS_ADMIN/, stderr);
    assert.equal(free(), before);
  });

  void it('is released when the k-th call fails, for each k', (t) => {
    const faults = new SystemFaults();
    new HugetlbMemory({ size: 4 * HUGE }).close();
    const before = [free(), footprint()];
    faults.inLibc(t, ['mmap', 'memfdCreate', 'addSeals', 'fallocate']);
    let k = 0;
    do {
      faults.fail(++k, 'ENOMEM');
      let memory: HugetlbMemory | undefined;
      try {
        memory = new HugetlbMemory({ size: 4 * HUGE });
        memory.close();
      } catch (error) {
        assert.ok(faults.failed !== null && error instanceof DmaError, `call ${String(k)}: ${String(error)}`);
        // A second call closes what the first one could not.
        memory?.close();
      }
      assert.deepEqual([free(), footprint()], before, `call ${String(k)}, ${String(faults.failed)}`);
    } while (faults.failed !== null);
    assert.ok(k > 5);
  });

  void it('is returned to the system by close, and stale views read zeros', () => {
    const before = free();
    const memory = new HugetlbMemory({ size: 4 * HUGE });
    const device = new Device({ name: 'late', memory });
    const pool = DmaPool.create('p', device, { size: 64 });
    const block = pool.alloc();
    block.bytes.fill(7);
    assert.equal(free(), before - 4);
    memory.close();
    memory.close();
    assert.equal(free(), before);
    assert.ok(block.bytes.every((byte) => byte === 0));
    block.bytes.fill(1);
    pool.free(block);
    pool.destroy();
    assert.equal(device.allocCoherent(4096), null);
    assert.equal(free(), before);
  });

  void it('is returned to the system when the process is killed', async () => {
    const before = free();
    const program = `
      import { HugetlbMemory } from 'dmapool/linux';
      globalThis.memory = new HugetlbMemory({ size: ${String(4 * HUGE)} });
      console.log('taken');
      setInterval(() => undefined, 1000);
    `;
    const root = fileURLToPath(new URL('../../../', import.meta.url));
    const child = spawn(process.execPath, ['--input-type=module', '-e', program], { cwd: root });
    await once(child.stdout, 'data');
    assert.equal(free(), before - 4);
    child.kill('SIGKILL');
    await once(child, 'exit');
    assert.equal(free(), before);
  });

  void it('can back one pool in several workers', async () => {
    const memory = new HugetlbMemory({ size: 2 * HUGE });
    const pool = DmaPool.create('shared', new Device({ name: 'nic', dmaMask: dmaBitMask(64), memory }), {
      size: 256,
      maxBlocks: 64,
    });
    const worker = new Worker(new URL('./region-worker.js', import.meta.url));
    try {
      worker.postMessage({ do: 'fill', handle: sharePool(pool).handle, value: 0x77 });
      const [answer] = (await once(worker, 'message')) as [{ ok?: number; code?: string }];
      assert.equal(answer.code, undefined);
      const block = sharePool(pool).accept(answer.ok!);
      assert.ok(block.bytes.every((byte) => byte === 0x77));
      assert.deepEqual(readPhysical(block.dma, 256), new Uint8Array(256).fill(0x77));
      pool.free(block);
    } finally {
      await worker.terminate();
      pool.destroy();
      memory.close();
    }
  });
});

function allocateAll(memory: HugetlbMemory, device: Device): CoherentMemory[] {
  const all: CoherentMemory[] = [];
  for (;;) {
    const next = memory.allocCoherent({ device, size: HUGE, node: -1 });
    if (next === null) break;
    all.push(next);
  }
  assert.equal(all.length * HUGE, memory.limit);
  return all;
}

/** The kernel finds at the physical address what we write to our view: at both ends and in between. */
function checkPhysical(all: readonly CoherentMemory[], memory: HugetlbMemory): void {
  const value = (index: number, at: number): number => index * 1_000_003 + at;
  all.forEach(({ buffer, byteOffset, size }, index) => {
    const words = new Uint32Array(buffer, byteOffset, size / 4);
    for (let at = 0; at < size; at += 4096) words[at / 4] = value(index, at);
  });
  all.forEach(({ dma, size }, index) => {
    for (const at of [0, 4096, size / 2 - 4096, size / 2, size - 4096]) {
      const bytes = readPhysical(dma + at, 4);
      assert.equal(new DataView(bytes.buffer).getUint32(0, true), value(index, at), `${String(dma)} + ${String(at)}`);
    }
    assert.ok(memory.runs.some((run) => dma >= run.dma && dma + size <= run.dma + run.size));
  });
}
