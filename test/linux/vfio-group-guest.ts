/**
 * A device that shares its IOMMU group, and the conditions for opening it; run as root in the virtual machine, with the
 * devices behind one conventional bridge that `vfio-misuse.test.ts` lists.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { bindToVfio, listPciDevices, unbindFromVfio, VfioDevice } from 'dmapool/linux';
import { openUnprivileged } from './vfio-guest-support.ts';

const EDU = '0000:01:01.0';
const EDU_2 = '0000:01:02.0';
const E1000 = '0000:01:03.0';
const ALL = [EDU, EDU_2, E1000];
const SMALL = { memory: { size: 2 ** 20 } };

const group = listPciDevices().find(({ address }) => address === EDU)!.iommuGroup!;
const node = `/dev/vfio/${String(group)}`;

async function opens(address: string): Promise<void> {
  await (await VfioDevice.open(address, SMALL)).close();
}

/** A process that holds the device open until it is killed. */
async function holder(): Promise<ChildProcess> {
  const program = `
    import { VfioDevice } from 'dmapool/linux';
    globalThis.vfio = await VfioDevice.open('${EDU}', { memory: { size: 2 ** 20 } });
    console.log('open');
    setInterval(() => undefined, 1000);
  `;
  const cwd = fileURLToPath(new URL('../../../', import.meta.url));
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], { cwd });
  await once(child.stdout, 'data');
  return child;
}

void describe('a device that shares its IOMMU group', () => {
  before(() => {
    bindToVfio(ALL);
  });
  after(() => {
    unbindFromVfio(ALL);
  });

  void it('is refused while a kernel driver has another function of the group, which the error names', async () => {
    await opens(EDU);
    assert.equal(unbindFromVfio([E1000])[0]!.to, 'e1000');
    await assert.rejects(VfioDevice.open(EDU, SMALL), {
      code: 'ERR_DMAPOOL_VFIO_GROUP',
      message:
        `${EDU}: its IOMMU group ${String(group)} is not viable: kernel drivers are bound to ` +
        `${E1000} (driver e1000); bind these to vfio-pci too`,
    });
    // The error is right; and the failure left nothing open.
    bindToVfio([E1000]);
    await opens(EDU);
  });

  void it('is refused while this process has another function of the group open, which cannot be unbound either', async () => {
    const vfio = await VfioDevice.open(EDU, SMALL);
    try {
      const users = new RegExp(`it is in use: process ${String(process.pid)} \\(.*\\) has ${node} open$`);
      await assert.rejects(VfioDevice.open(EDU_2, SMALL), { code: 'ERR_DMAPOOL_PCI_BUSY', message: users });
      assert.throws(() => unbindFromVfio([E1000]), { code: 'ERR_DMAPOOL_BIND_IN_USE', message: users });
      assert.equal((await vfio.pci.bar(0).read32(0)) & 0xff, 0xed, 'the first device works on');
    } finally {
      await vfio.close();
    }
    await opens(EDU_2);
  });

  void it('is refused while another process has it open, which the error names to users with the right to see it', async () => {
    const child = await holder();
    try {
      const message = new RegExp(`^${EDU}: it is in use: process ${String(child.pid)} \\(.*\\) has ${node} open$`);
      await assert.rejects(VfioDevice.open(EDU, SMALL), { code: 'ERR_DMAPOOL_PCI_BUSY', message });
      chmodSync(node, 0o666);
      assert.equal(
        openUnprivileged(EDU, '{ memory: { size: 2 ** 20 } }'),
        `ERR_DMAPOOL_PCI_BUSY ${EDU}: it is in use: another process has ${node} open`,
      );
    } finally {
      chmodSync(node, 0o600);
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
    await opens(EDU);
  });

  void it('is refused to users that may not open the container', () => {
    const container = '/dev/vfio/vfio';
    chmodSync(container, 0o600);
    try {
      assert.equal(
        openUnprivileged(EDU),
        `ERR_DMAPOOL_VFIO_PERMISSION ${EDU}: this user may not open ${container}; as root: chown USER ${container}`,
      );
    } finally {
      chmodSync(container, 0o666);
    }
  });

  void it('is refused when the VFIO module for this IOMMU is not loaded, with the command that loads it', async () => {
    // busybox reports a failure even when it succeeds.
    spawnSync('rmmod', ['vfio_iommu_type1']);
    assert.ok(!existsSync('/sys/module/vfio_iommu_type1'));
    let command = '';
    await assert.rejects(VfioDevice.open(EDU, SMALL), (error: Error & { code?: string }) => {
      assert.equal(error.code, 'ERR_DMAPOOL_VFIO_UNSUPPORTED');
      command = /^0000:01:01\.0: the kernel lacks VFIO for type 1 IOMMUs: (modprobe .*)$/.exec(error.message)![1]!;
      return true;
    });
    execFileSync('sh', ['-c', command]);
    await opens(EDU);
  });
});
