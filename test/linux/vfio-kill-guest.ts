/** Kills a driver's process under load, again and again; as root in the virtual machine, with a disk. */
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

void it(`${String(KILLS)} times a process is killed under load: the device is quiet, memory is back, the next one works`, async () => {
  const hugepages = freeHugepages();
  // Starting Node is what takes long here: the next one starts while this one works.
  let next = start('load');
  for (let i = 1; i <= KILLS; i++) {
    // Each one is also the one that takes the device over.
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
  assert.deepEqual(iommuFaults(), [], 'it reached for nothing that it did not have any more');
});
