/** The parts of the virtual machine's tool that need no machine. */

import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, fstatSync } from 'node:fs';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { cpioArchive, file, folder } from '../../scripts/vm/cpio.ts';
import { deviceArguments, vmDeviceAddress } from '../../scripts/vm/devices.ts';
import { VmError } from '../../scripts/vm/error.ts';
import { formatKernelLog } from '../../scripts/vm/kernel-log.ts';
import { runInVm } from '../../scripts/vm/run.ts';
import { findTool } from '../../scripts/vm/tools.ts';
import type { VmOptions } from '../../scripts/vm/options.ts';

const CLI = fileURLToPath(new URL('../../scripts/vm/cli.js', import.meta.url));

describe('the initramfs archive', () => {
  it('pads names and contents to four bytes', () => {
    for (let length = 0; length < 9; length++) {
      const archive = cpioArchive([folder('d'), file(`d/${'n'.repeat(length + 1)}`, 'x'.repeat(length))]);
      assert.equal(archive.length % 4, 0);
      const headers = [...archive.toString('latin1').matchAll(/070701/g)].map(({ index }) => index % 4);
      assert.deepEqual(headers, [0, 0, 0]);
    }
  });

  it('is what cpio unpacks', { skip: findTool('cpio') === null ? 'cpio is not installed' : false }, () => {
    const archive = cpioArchive([folder('d'), file('d/script', 'abc', 0o755), file('d/plain', 'defgh')]);
    const listing = execFileSync('cpio', ['-t', '-v', '--quiet'], { input: archive, encoding: 'utf8' });
    assert.match(listing, /^drwxr-xr-x .* d\n-rwxr-xr-x .* 3 .* d\/script\n-rw-r--r-- .* 5 .* d\/plain\n$/);
  });
});

describe('the kernel log', () => {
  it('is made of records, without their further fields', () => {
    const records =
      '6,1,0,-;Linux version\n4,2,12345678,-;a;b \\x41\n SUBSYSTEM=pci\n3,3,99000000,c,caller=T1;last\nhalf';
    assert.equal(formatKernelLog(records), '[    0.000000] Linux version\n[   12.345678] a;b A\n[   99.000000] last\n');
  });
});

describe('devices', () => {
  it('get the addresses in the order given', () => {
    const raw = ['x', 'y,addr=5.1', 'z,bus=bridge', 'w,id=w0'].map((device) => ({ kind: 'raw' as const, device }));
    const { args, files } = deviceArguments([{ kind: 'edu' }, ...raw, { kind: 'e1000' }], 10);
    assert.deepEqual(files, []);
    const devices = args.filter((_, index) => args[index - 1] === '-device');
    assert.deepEqual(devices.slice(0, 5), [
      'edu,id=edu-0,addr=0x10',
      'x,addr=0x11',
      'y,addr=5.1',
      'z,bus=bridge',
      'w,id=w0,addr=0x12',
    ]);
    assert.match(devices[5]!, /^e1000,.*,addr=0x13$/);
    assert.equal(vmDeviceAddress(1), '0000:00:11.0');
  });

  it('have disks without a name, of the size asked for', () => {
    const { args, files } = deviceArguments([{ kind: 'virtio-blk', size: 2 ** 20 }], 10);
    assert.equal(files.length, 1);
    assert.match(args.join(' '), /-device virtio-blk-pci,.*,iommu_platform=on,.*,addr=0x10/);
    const { size, nlink } = fstatSync(files[0]!);
    closeSync(files[0]!);
    assert.deepEqual({ size, nlink }, { size: 2 ** 20, nlink: 0 });
  });
});

describe('wrong options', () => {
  const wrong: Record<string, Partial<VmOptions>> = {
    'no command': { command: [] },
    'a NUL in the command': { command: ['echo', '\0'] },
    'a machine without processors': { cpus: 0 },
    'a little memory': { memory: 2 ** 20 },
    'more hugepages than memory': { hugepages: { '2M': 1000 } },
    'half a hugepage': { hugepages: { '1G': 0.5 } },
    'more nodes than processors': { numaNodes: 4 },
    'a disk of no size': { devices: [{ kind: 'nvme' }] },
    'too many devices': { devices: Array.from({ length: 16 }, () => ({ kind: 'edu' as const })) },
    'the root as a writable folder': { writable: ['/'] },
    'a writable folder that is not there': { writable: ['/does/not/exist'] },
    'an accelerator nobody knows': { accelerator: 'fast' as 'tcg' },
  };
  for (const [name, options] of Object.entries(wrong)) {
    it(`are refused before anything starts: ${name}`, { skip: needsQemu() }, async () => {
      await assert.rejects(
        runInVm({ command: ['true'], ...options }),
        (error) => error instanceof VmError && error.code === 'ERR_VM_OPTION' && error.output === undefined,
      );
    });
  }

  for (const args of [[], ['--nvme', ''], ['--hugepages', '3M=1', 'true'], ['--cpus', 'two', 'true'], ['--nonsense']]) {
    it(`end the command with 125: ${args.join(' ')}`, () => {
      const { status, stdout, stderr } = cli(args);
      assert.equal(status, 125, stderr);
      assert.equal(stdout, '');
      assert.notEqual(stderr, '');
    });
  }
});

describe('what is missing', () => {
  it('is said with the package that has it: QEMU', () => {
    const { status, stderr } = cli(['true'], { PATH: '/nowhere' });
    assert.equal(status, 125);
    assert.equal(stderr, 'vm: qemu-system-x86_64 is not installed: apt-get install qemu-system-x86\n');
  });

  it('is said with the package that has it: apt', () => {
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
