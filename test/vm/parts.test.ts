/** The parts of the virtual machine's tool that run without a machine. */

import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, fstatSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { cpioArchive, file, folder } from '../../scripts/vm/cpio.ts';
import { deviceArguments, pciModels, vmDeviceAddress, type VmDevice } from '../../scripts/vm/devices.ts';
import { VmError } from '../../scripts/vm/error.ts';
import { formatKernelLog } from '../../scripts/vm/kernel-log.ts';
import { cachedKernel, kernelSeries } from '../../scripts/vm/kernel.ts';
import { runInVm } from '../../scripts/vm/run.ts';
import { findTool } from '../../scripts/vm/tools.ts';
import type { VmOptions } from '../../scripts/vm/options.ts';

const CLI = fileURLToPath(new URL('../../scripts/vm/cli.js', import.meta.url));

describe('the initramfs archive', () => {
  it('pads names and contents to 4 bytes', () => {
    for (let length = 0; length < 9; length++) {
      const archive = cpioArchive([folder('d'), file(`d/${'n'.repeat(length + 1)}`, 'x'.repeat(length))]);
      assert.equal(archive.length % 4, 0);
      const headers = [...archive.toString('latin1').matchAll(/070701/g)].map(({ index }) => index % 4);
      assert.deepEqual(headers, [0, 0, 0]);
    }
  });

  it('is readable by cpio', { skip: findTool('cpio') === null ? 'cpio is not installed' : false }, () => {
    const archive = cpioArchive([folder('d'), file('d/script', 'abc', 0o755), file('d/plain', 'defgh')]);
    const listing = execFileSync('cpio', ['-t', '-v', '--quiet'], { input: archive, encoding: 'utf8' });
    assert.match(listing, /^drwxr-xr-x .* d\n-rwxr-xr-x .* 3 .* d\/script\n-rw-r--r-- .* 5 .* d\/plain\n$/);
  });
});

describe('the kernel log', () => {
  it('has a line per record, without the other fields', () => {
    const records =
      '6,1,0,-;Linux version\n4,2,12345678,-;a;b \\x41\n SUBSYSTEM=pci\n3,3,99000000,c,caller=T1;last\nhalf';
    assert.equal(formatKernelLog(records), '[    0.000000] Linux version\n[   12.345678] a;b A\n[   99.000000] last\n');
  });
});

describe('devices', () => {
  it('get the addresses in the given order', () => {
    const raw = (device: string): VmDevice => ({ kind: 'raw', device });
    const { args, files } = deviceArguments(
      [{ kind: 'edu' }, raw('pci-testdev'), raw('driver=pci-testdev,membar=4096'), { kind: 'e1000' }],
      10,
      new Set(['pci-testdev']),
    );
    assert.deepEqual(files, []);
    const devices = args.filter((_, index) => args[index - 1] === '-device');
    assert.deepEqual(devices.slice(0, 3), [
      'edu,id=edu-0,addr=0x10',
      'pci-testdev,addr=0x11',
      'driver=pci-testdev,membar=4096,addr=0x12',
    ]);
    assert.match(devices[3]!, /^e1000,.*,addr=0x13$/);
    assert.equal(vmDeviceAddress(3), '0000:00:13.0');
  });

  it('take no address if they have one, are on another bus, or are no PCI devices', () => {
    const others = ['pci-testdev,addr=18.1', 'pci-testdev,bus=bridge,addr=1', 'usb-kbd', '{"driver":"pci-testdev"}'];
    const devices: VmDevice[] = [...others.map((device) => ({ kind: 'raw' as const, device })), { kind: 'edu' }];
    const { args } = deviceArguments(devices, 10, new Set(['pci-testdev']));
    assert.deepEqual(
      args.filter((arg) => arg !== '-device'),
      [...others, 'edu,id=edu-0,addr=0x10'],
    );
  });

  it('are PCI devices if QEMU lists them so, by their names and aliases', { skip: needsQemu() }, async () => {
    const qemu = findTool('qemu-system-x86_64')!;
    const models = await pciModels(qemu, [{ kind: 'raw', device: 'virtio-rng-pci' }]);
    assert.deepEqual(
      ['virtio-rng-pci', 'e1000-82540em', 'usb-kbd'].map((model) => models.has(model)),
      [true, true, false],
    );
    assert.equal((await pciModels(qemu, [{ kind: 'raw', device: 'edu,addr=18' }])).size, 0);
  });

  it('have unlinked disk images of the requested size', () => {
    const { args, files } = deviceArguments([{ kind: 'virtio-blk', size: 2 ** 20 }], 10);
    assert.equal(files.length, 1);
    assert.match(args.join(' '), /-device virtio-blk-pci,.*,iommu_platform=on,.*,addr=0x10/);
    const { size, nlink } = fstatSync(files[0]!);
    closeSync(files[0]!);
    assert.deepEqual({ size, nlink }, { size: 2 ** 20, nlink: 0 });
  });
});

describe('invalid options', () => {
  const invalid: Record<string, Partial<VmOptions>> = {
    'no command': { command: [] },
    'a NUL in the command': { command: ['echo', '\0'] },
    'a machine without processors': { cpus: 0 },
    'too little memory': { memory: 2 ** 20 },
    'more hugepages than memory': { hugepages: { '2M': 1000 } },
    'half a hugepage': { hugepages: { '1G': 0.5 } },
    'more nodes than processors': { numaNodes: 4 },
    'a disk of no size': { devices: [{ kind: 'nvme' }] },
    'too many devices': { devices: Array.from({ length: 16 }, () => ({ kind: 'edu' as const })) },
    'the root as a writable folder': { writable: ['/'] },
    'a missing writable folder': { writable: ['/does/not/exist'] },
    'an unknown accelerator': { accelerator: 'fast' as 'tcg' },
  };
  for (const [name, options] of Object.entries(invalid)) {
    it(`are rejected before the machine starts: ${name}`, { skip: needsQemu() }, async () => {
      await assert.rejects(
        runInVm({ command: ['true'], ...options }),
        (error) => error instanceof VmError && error.code === 'ERR_VM_OPTION' && error.output === undefined,
      );
    });
  }

  for (const args of [[], ['--nvme', ''], ['--hugepages', '3M=1', 'true'], ['--cpus', 'two', 'true'], ['--nonsense']]) {
    it(`cause exit code 125: ${args.join(' ')}`, () => {
      const { status, stdout, stderr } = cli(args);
      assert.equal(status, 125, stderr);
      assert.equal(stdout, '');
      assert.notEqual(stderr, '');
    });
  }
});

describe('the kernel', () => {
  it('is 6.12 by default; DMAPOOL_VM_KERNEL and --kernel select another series', () => {
    const saved = process.env['DMAPOOL_VM_KERNEL'];
    try {
      delete process.env['DMAPOOL_VM_KERNEL'];
      assert.equal(kernelSeries(), '6.12');
      process.env['DMAPOOL_VM_KERNEL'] = '6.1';
      assert.equal(kernelSeries(), '6.1');
      assert.equal(kernelSeries('6.12'), '6.12');
      assert.throws(() => kernelSeries('5.10'), /must be 6\.1 or 6\.12, not 5\.10/);
    } finally {
      if (saved === undefined) delete process.env['DMAPOOL_VM_KERNEL'];
      else process.env['DMAPOOL_VM_KERNEL'] = saved;
    }
  });

  it('is the newest of its series in the cache', () => {
    const saved = process.env['XDG_CACHE_HOME'];
    const cache = mkdtempSync(join(tmpdir(), 'dmapool-vm-test-'));
    try {
      process.env['XDG_CACHE_HOME'] = cache;
      assert.equal(cachedKernel('6.1'), null);
      for (const name of ['v2-6.1.0-9-amd64', 'v2-6.1.0-56-amd64', 'v2-6.12.117+deb12-amd64', 'v1-6.12.200-amd64']) {
        mkdirSync(join(cache, 'dmapool-vm', name), { recursive: true });
      }
      assert.equal(cachedKernel('6.1')?.release, '6.1.0-56-amd64');
      assert.equal(cachedKernel('6.12')?.release, '6.12.117+deb12-amd64');
    } finally {
      if (saved === undefined) delete process.env['XDG_CACHE_HOME'];
      else process.env['XDG_CACHE_HOME'] = saved;
      rmSync(cache, { recursive: true });
    }
  });
});

describe('a missing program', () => {
  it('is reported with its Debian package: QEMU', () => {
    const { status, stderr } = cli(['true'], { PATH: '/nowhere' });
    assert.equal(status, 125);
    assert.equal(stderr, 'vm: qemu-system-x86_64 is not installed: apt-get install qemu-system-x86\n');
  });

  it('is reported with its Debian package: apt', () => {
    const { status, stderr } = cli(['--prepare'], { PATH: '/nowhere' });
    assert.equal(status, 125);
    assert.equal(stderr, 'vm: apt-cache is not installed: apt-get install apt\n');
  });
});

function needsQemu(): string | false {
  return findTool('qemu-system-x86_64') === null && process.env['DMAPOOL_REQUIRE_TOOLS'] !== '1'
    ? 'qemu-system-x86_64 is not installed'
    : false;
}

function cli(
  args: string[],
  env: Record<string, string> = {},
): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [CLI, ...args], {
    encoding: 'utf8',
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
}
