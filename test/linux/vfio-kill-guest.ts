/** Kills a driver's process under load, repeatedly; run as root in the virtual machine, with a disk. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { after, before, it } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { bindToVfio, unbindFromVfio } from 'dmapool/linux';
import { FIRST as NVME, freeHugepages, iommuFaults, isBusMaster } from './vfio-guest-support.ts';

const KILLS = 20;
const PROGRAM = fileURLToPath(new URL('./vfio-load.js', import.meta.url));

before(() => {
  bindToVfio([NVME]);
});
after(() => {
  unbindFromVfio([NVME]);
});

function start(mode: string): ChildProcess {
  return spawn(process.execPath, [PROGRAM, NVME, mode], { stdio: ['pipe', 'pipe', 'inherit'] });
}

async function says(child: ChildProcess, word: string): Promise<void> {
  const line = await Promise.race([
    once(child.stdout!, 'data').then(([data]) => String(data).trim()),
    once(child, 'exit').then(([code]) => `exit ${String(code)}`),
  ]);
  assert.equal(line, word);
}

void it(`after each of ${String(KILLS)} kills under load the device is quiet, the memory is returned, and the next process works`, async () => {
  const hugepages = freeHugepages();
  // Node takes long to start: the next process starts while this one works.
  let next = start('load');
  for (let i = 1; i <= KILLS; i++) {
    // Each process also takes the device over from the previous one.
    const child = next;
    child.stdin!.write('go');
    next = start(i < KILLS ? 'load' : 'once');
    await says(child, 'ready');
    assert.equal(freeHugepages(), hugepages - 4);
    assert.ok(isBusMaster(NVME));
    await setTimeout((i * 7) % 50);
    child.kill('SIGKILL');
    const [, signal] = (await once(child, 'exit')) as [number | null, string];
    assert.equal(signal, 'SIGKILL');
    assert.equal(isBusMaster(NVME), false, 'the device is quiet');
    assert.equal(freeHugepages(), hugepages);
  }
  next.stdin!.write('go');
  await says(next, 'worked');
  assert.deepEqual(await once(next, 'exit'), [0, null]);
  assert.equal(freeHugepages(), hugepages);
  assert.deepEqual(iommuFaults(), [], 'the device used no address that was unmapped');
});
