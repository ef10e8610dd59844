/** A system with its IOMMU off and no hugepages; run as root in the virtual machine of `vfio-misuse.test.ts`. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { it } from 'node:test';
import { bindToVfio, HugetlbMemory, listPciDevices, VfioDevice } from 'dmapool/linux';
import { runCli } from '../cli/run-cli.ts';
import { FIRST as EDU } from './vfio-guest-support.ts';

const WHAT_TO_DO =
  `${EDU}: it has no IOMMU group, so VFIO cannot use it: enable the IOMMU in the firmware (VT-d, AMD-Vi), and on ` +
  'Intel boot with intel_iommu=on';

void it('without an IOMMU no device can be bound or opened, and each error states the remedy', async () => {
  assert.match((await runCli(['devices'])).out, /^0000:00:10\.0 +1234:11e8 +old device +- +-$/m);
  assert.throws(() => bindToVfio([EDU]), { code: 'ERR_DMAPOOL_BIND_NO_IOMMU', message: WHAT_TO_DO });
  assert.deepEqual(await runCli(['bind', EDU]), { code: 1, out: '', err: `dmapool: ${WHAT_TO_DO}\n` });
  await assert.rejects(VfioDevice.open(EDU), { code: 'ERR_DMAPOOL_VFIO_NO_IOMMU', message: WHAT_TO_DO });
  // No step was taken.
  assert.equal(listPciDevices().find(({ address }) => address === EDU)!.driver, null);
  assert.ok(!existsSync('/sys/bus/pci/drivers/vfio-pci'));
});

void it('without reserved hugepages HugetlbMemory is refused, until the command of the message has run', () => {
  let command = '';
  assert.throws(
    () => new HugetlbMemory({ size: 3 * 2 ** 20 }),
    (error: Error & { code?: string }) => {
      assert.equal(error.code, 'ERR_DMAPOOL_NO_HUGEPAGES');
      command = /only 0 of 0 of 2 MiB are free; reserve more, as root: (echo 2 > .*)$/.exec(error.message)![1]!;
      return true;
    },
  );
  execFileSync('sh', ['-c', command]);
  const memory = new HugetlbMemory({ size: 3 * 2 ** 20 });
  assert.equal(memory.limit, 4 * 2 ** 20);
  memory.close();
});
