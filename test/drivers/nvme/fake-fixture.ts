/** Helpers of the tests of the NVMe driver on a fake controller. */
import assert from 'node:assert/strict';
import type { CoherentAllocator } from 'dmapool';
import { countsOf } from '../../support/pools.ts';
import { NvmeController, type NvmeNamespace, type NvmeOptions } from 'dmapool/drivers/nvme';
import { PciFunction } from 'dmapool/pci';
import { RecordingLog } from '../../support/log.ts';
import { FakeNvme } from './fake-nvme.ts';
import { assertIdle } from './fixture.ts';

export interface Bench {
  readonly fake: FakeNvme;
  readonly pci: PciFunction;
  readonly nvme: NvmeController;
  readonly disk: NvmeNamespace;
  readonly log: RecordingLog;
}

export async function open(
  fake: FakeNvme,
  memory: CoherentAllocator = fake.memory,
): Promise<{ pci: PciFunction; log: RecordingLog }> {
  const log = new RecordingLog();
  const pci = await PciFunction.open(fake, { log, memory });
  fake.target = pci.device;
  return { pci, log };
}

export async function start(fake: FakeNvme = new FakeNvme(), options: NvmeOptions = {}): Promise<Bench> {
  const { pci, log } = await open(fake);
  const nvme = await NvmeController.open(pci, options);
  return { fake, pci, nvme, disk: await nvme.namespace(1), log };
}

/** Checks that no block is allocated, that the controller made no wrong access, and that all memory is freed. */
export async function end({ fake, pci, nvme, log }: Bench): Promise<void> {
  const { pools } = nvme;
  assertIdle(nvme);
  await nvme.close();
  assert.deepEqual(fake.faults, []);
  for (const pool of pools) assert.deepEqual(countsOf(pool), { active: 0, blocks: 0, pages: 0 });
  await pci.close();
  assert.doesNotMatch(log.text, /busy/);
}
