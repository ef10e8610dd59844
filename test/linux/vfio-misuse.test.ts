/**
 * Systems on which a device cannot be opened, each with the message that states the reason: real systems, and simulated
 * ones where no real one can be built.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { SystemFolders } from '../../src/linux/pci-devices.ts';
import { VfioContainer } from '../../src/linux/vfio-container.ts';
import { testsInVm } from '../vm/machine.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

testsInVm('a shared IOMMU group', new URL('vfio-group-guest.js', import.meta.url), {
  devices: [
    { kind: 'raw', device: 'pci-bridge,id=bridge,chassis_nr=1,addr=19.0' },
    { kind: 'raw', device: 'edu,bus=bridge,addr=1' },
    { kind: 'raw', device: 'edu,bus=bridge,addr=2' },
    { kind: 'raw', device: 'e1000,bus=bridge,addr=3,romfile=' },
  ],
});

testsInVm('no IOMMU', new URL('no-iommu-guest.js', import.meta.url), { devices: [{ kind: 'edu' }], iommu: false });

testsInVm('no remapping of interrupts', new URL('vfio-remapping-guest.js', import.meta.url), {
  devices: [{ kind: 'edu' }],
  hugepages: { '2M': 4 },
  iommu: 'intremap=off',
});

const ADDRESS = '0000:01:00.0';

/** A system with one function, in group 7 and with vfio-pci by default, and files of /dev. */
function fakeSystem(t: TestContext, dev: readonly string[], driver: string | null = 'vfio-pci'): SystemFolders {
  const root = temporaryFolder(t);
  const device = `sys/bus/pci/devices/${ADDRESS}`;
  const files = { [`${device}/vendor`]: '0x8086', [`${device}/device`]: '0x1234', [`${device}/class`]: '0x020000' };
  for (const [path, content] of [...Object.entries(files), ...dev.map((name) => [join('dev', name), ''] as const)]) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), content);
  }
  if (driver !== null) symlinkSync(join(root, 'sys/bus/pci/drivers', driver), join(root, device, 'driver'));
  symlinkSync(join(root, 'sys/kernel/iommu_groups/7'), join(root, device, 'iommu_group'));
  return { sys: join(root, 'sys'), proc: join(root, 'proc'), dev: join(root, 'dev') };
}

void describe('a device that cannot be opened', () => {
  void it('because another driver has it', (t) => {
    for (const driver of ['e1000', null]) {
      assert.throws(() => new VfioContainer(ADDRESS, fakeSystem(t, [], driver)), {
        code: 'ERR_DMAPOOL_VFIO_NOT_BOUND',
        message: `${ADDRESS}: ${driver === null ? 'no driver' : `driver ${driver}`} is bound to it; run: dmapool bind ${ADDRESS}`,
      });
    }
  });

  void it('because VFIO has it without an IOMMU', (t) => {
    assert.throws(() => new VfioContainer(ADDRESS, fakeSystem(t, ['vfio/vfio', 'vfio/noiommu-7'])), {
      code: 'ERR_DMAPOOL_VFIO_NO_IOMMU',
      message: /^0000:01:00\.0: VFIO runs without IOMMU \(enable_unsafe_noiommu_mode\)/,
    });
  });

  void it('because VFIO is not loaded', (t) => {
    assert.throws(() => new VfioContainer(ADDRESS, fakeSystem(t, [])), {
      code: 'ERR_DMAPOOL_VFIO_UNSUPPORTED',
      message: /dev\/vfio\/vfio can't be opened \(ENOENT\); load VFIO: modprobe vfio-pci$/,
    });
  });

  void it('because the file of VFIO is another one', (t) => {
    assert.throws(() => new VfioContainer(ADDRESS, fakeSystem(t, ['vfio/vfio'])), {
      code: 'ERR_DMAPOOL_SYSTEM_CALL',
      errnoName: 'ENOTTY',
      message: /^0000:01:00\.0: can't read the version of VFIO: /,
    });
  });
});

/** The code and message that each public entry point throws in a separate process, one line each. */
function errorsOf(prelude: string): string[] {
  const program = `
    ${prelude}
    const { HugetlbMemory, openSharedRegion, VfioDevice } = await import('dmapool/linux');
    const tell = (error) => console.log(error.code, error.message);
    await VfioDevice.open('0000:00:10.0').catch(tell);
    try { new HugetlbMemory({ size: 4096 }); } catch (error) { tell(error); }
    try { openSharedRegion({ kind: 'mapped', name: 'dmapool', address: 4096, size: 4096 }); } catch (error) { tell(error); }
  `;
  const cwd = fileURLToPath(new URL('../../../', import.meta.url));
  const run = spawnSync(process.execPath, ['--input-type=module', '-e', program], { cwd, encoding: 'utf8' });
  assert.equal(run.stderr, '');
  return run.stdout.trim().split('\n');
}

void describe('dmapool/linux', () => {
  void it('requires Linux, and has no other effect elsewhere', () => {
    for (const platform of ['darwin', 'win32']) {
      const errors = errorsOf(`Object.defineProperty(process, 'platform', { value: '${platform}' });`);
      assert.equal(errors.length, 3);
      for (const error of errors) {
        assert.match(error, new RegExp(`^ERR_DMAPOOL_DEPENDENCY .* needs Linux on one of .*; this is ${platform} on `));
      }
    }
  });

  void it('names the package to install without koffi', () => {
    const errors = errorsOf(`
      const { Module } = await import('node:module');
      const resolve = Module._resolveFilename;
      Module._resolveFilename = (name, ...rest) => resolve(name === 'koffi' ? 'koffi-is-not-there' : name, ...rest);
    `);
    assert.equal(errors.length, 3);
    for (const error of errors)
      assert.match(error, /^ERR_DMAPOOL_DEPENDENCY .*koffi, which is not installed: npm install koffi$/);
  });
});
