/** A machine without interrupt remapping; run as root in the virtual machine of `vfio-misuse.test.ts`. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { it } from 'node:test';
import { bindToVfio, unbindFromVfio, VfioDevice } from 'dmapool/linux';
import { FIRST as EDU, freeHugepages } from './vfio-guest-support.ts';

void it('without interrupt remapping a device is refused, until the command of the message allows it', async () => {
  bindToVfio([EDU]);
  const options = { memory: { size: 2 ** 20, hugepages: true } };
  const before = freeHugepages();
  let command = '';
  await assert.rejects(VfioDevice.open(EDU, options), (error: Error & { code?: string }) => {
    assert.equal(error.code, 'ERR_DMAPOOL_VFIO_PERMISSION');
    command = /^0000:00:10\.0: the kernel refused the IOMMU.*: (echo 1 > .*)$/.exec(error.message)![1]!;
    return true;
  });
  assert.equal(freeHugepages(), before);
  execFileSync('sh', ['-c', command]);
  const vfio = await VfioDevice.open(EDU, options);
  await vfio.close();
  unbindFromVfio([EDU]);
});
