/** Binding PCI functions to VFIO: the parts that need no devices. The rest runs in the virtual machine. */
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { bindToVfio, unbindFromVfio } from 'dmapool/linux';
import { readPciDevice, type SystemFolders, usesOf } from '../../src/linux/pci-devices.ts';
import { runCli } from '../cli/run-cli.ts';
import { testsInVm } from '../vm/machine.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

const twin = (place: string): string => `e1000,romfile=,multifunction=on,addr=${place}`;

testsInVm('dmapool devices, bind and unbind', new URL('bind-guest.js', import.meta.url), {
  devices: [
    { kind: 'nvme', size: 2 ** 25 },
    { kind: 'e1000' },
    { kind: 'edu' },
    { kind: 'raw', device: twin('18.0') },
    { kind: 'raw', device: twin('18.1') },
    { kind: 'raw', device: 'pcie-root-port,id=bridge,chassis=1,addr=19.0' },
  ],
});

const ADDRESS = '0000:01:00.0';

/** A system with one function. Writes to its files have no effect, unlike in the kernel's. */
function fakeSystem(t: TestContext, group: number | null): SystemFolders {
  const root = temporaryFolder(t);
  const file = (path: string, content = ''): void => {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), content);
  };
  const device = `sys/bus/pci/devices/${ADDRESS}`;
  file(`${device}/vendor`, '0x8086\n');
  file(`${device}/device`, '0x1234\n');
  file(`${device}/class`, '0x020000\n');
  file(`${device}/driver_override`, '(null)\n');
  file('sys/bus/pci/drivers/vfio-pci/bind');
  file('sys/bus/pci/drivers/kernel/unbind');
  symlinkSync(join(root, 'sys/bus/pci/drivers/kernel'), join(root, device, 'driver'));
  if (group !== null) {
    file(`sys/kernel/iommu_groups/${String(group)}/devices/${ADDRESS}`);
    symlinkSync(join(root, `sys/kernel/iommu_groups/${String(group)}`), join(root, device, 'iommu_group'));
  }
  mkdirSync(join(root, 'proc'));
  return { sys: join(root, 'sys'), proc: join(root, 'proc'), dev: join(root, 'dev') };
}

void describe('binding PCI functions', () => {
  void it('is refused without an IOMMU, with the remedy', (t) => {
    const folders = fakeSystem(t, null);
    assert.throws(() => bindToVfio([ADDRESS], folders), {
      code: 'ERR_DMAPOOL_BIND_NO_IOMMU',
      message: /intel_iommu=on/,
    });
  });

  void it('is undone when the kernel does not do its part', (t) => {
    const folders = fakeSystem(t, 7);
    assert.equal(readPciDevice(ADDRESS, folders)?.iommuGroup, 7);
    assert.deepEqual(usesOf(ADDRESS, folders), []);
    assert.throws(() => bindToVfio([ADDRESS], folders), {
      code: 'ERR_DMAPOOL_BIND_FAILED',
      message: /vfio-pci did not bind to it/,
    });
    assert.equal(readFileSync(join(folders.sys, 'bus/pci/devices', ADDRESS, 'driver_override'), 'utf8'), '\n');
    assert.equal(readFileSync(join(folders.sys, 'bus/pci/drivers_probe'), 'utf8'), `${ADDRESS}\n`);
  });

  void it('accepts only addresses of existing functions', async (t) => {
    const folders = fakeSystem(t, 7);
    for (const action of [bindToVfio, unbindFromVfio]) {
      assert.throws(() => action(['0000:02:00.0'], folders), { code: 'ERR_DMAPOOL_PCI_NOT_FOUND' });
      for (const wrong of ['', '../..', '01:00.0', '0000:01:00.8', '0000:01:00.0/x']) {
        assert.throws(() => action([wrong], folders), { code: 'ERR_DMAPOOL_INVALID_ARGUMENT' });
      }
    }
    for (const command of ['bind', 'unbind']) {
      const { code, err } = await runCli([command, '01:00.0']);
      assert.equal(code, 2);
      assert.match(err, /accepted: a PCI address with its domain/);
    }
  });
});
