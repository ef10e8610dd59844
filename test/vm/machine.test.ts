/** The virtual machine: its devices and files, the output of its command, and its failures. */

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe } from 'node:test';
import { VmError } from '../../scripts/vm/error.ts';
import { kernelSeries } from '../../scripts/vm/kernel.ts';
import { runInVm } from '../../scripts/vm/run.ts';
import { itInVm, shellInVm } from './machine.ts';

describe('the virtual machine', () => {
  itInVm('has the requested devices, hugepages, NUMA nodes and IOMMU groups', async () => {
    const script = `
      for device in /sys/bus/pci/devices/0000:00:1[0-3].0; do
        echo "\${device##*/} $(cat $device/vendor $device/device) $([ ! -e $device/driver ] || basename $(readlink $device/driver))" \
          $(ls $device/iommu_group/devices)
      done
      # Programs are the host's, not busybox's. The kernel loads modules on demand.
      case $(readlink -f "$(command -v ls)") in *busybox*) echo busybox ;; esac
      readlink -f /proc/$$/exe | grep busybox
      grep -q ext4 /proc/filesystems && echo early
      mount -t ext4 /dev/null /mnt 2> /dev/null
      grep -c ext4 /proc/filesystems
      cat /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages
      cat /sys/devices/system/node/node*/hugepages/hugepages-2048kB/nr_hugepages
      grep -c processor /proc/cpuinfo
      blockdev --getsize64 /dev/nvme0n1
      grep -c hugetlbfs /proc/mounts
    `;
    const { stdout, stderr, kernelLog, exitCode, stages } = await shellInVm(script, {
      devices: [{ kind: 'nvme', size: 2 ** 25 }, { kind: 'e1000' }, { kind: 'e1000e' }, { kind: 'edu' }],
      hugepages: { '2M': 32 },
      numaNodes: 2,
      cpus: 2,
    });
    assert.equal(stderr, '');
    assert.deepEqual(
      stdout
        .trim()
        .replace(/[ \n]+/g, ' ')
        .split(' '),
      [
        ...['0000:00:10.0', '0x1b36', '0x0010', 'nvme', '0000:00:10.0'],
        ...['0000:00:11.0', '0x8086', '0x100e', 'e1000', '0000:00:11.0'],
        ...['0000:00:12.0', '0x8086', '0x10d3', 'e1000e', '0000:00:12.0'],
        // The kernel has no driver for edu.
        ...['0000:00:13.0', '0x1234', '0x11e8', '0000:00:13.0'],
        // The kernel loaded ext4.
        '1',
        ...['32', '16', '16', '2', String(2 ** 25), '1'],
      ],
    );
    assert.equal(exitCode, 0);
    const version = /^\[ +\d+\.\d{6}\] Linux version (\d+\.\d+)\./.exec(kernelLog)?.[1];
    assert.equal(version, kernelSeries());
    assert.match(kernelLog, /DMAR: Intel\(R\) Virtualization Technology for Directed I\/O\n/);
    assert.match(kernelLog, /dmapool-vm: the command ended with 0\n$/);
    assert.deepEqual(
      stages.map(({ name }) => name),
      ['kernel', 'files', 'drivers', 'command', 'off'],
    );
  });

  itInVm('loads modules with its own tools, independent of the tools and settings of the host', async () => {
    const script = `
      for tool in depmod insmod lsmod modinfo modprobe rmmod; do readlink -f "$(command -v $tool)"; done
      modprobe vfio-pci && lsmod | grep -c '^vfio_pci ' && rmmod vfio_pci
      ls -A /etc/modprobe.d
    `;
    const { stdout, stderr, exitCode } = await shellInVm(script);
    assert.equal(stderr, '');
    const busybox = '/run/dmapool-vm/busybox';
    assert.deepEqual(stdout.trim().split('\n'), [...new Array<string>(6).fill(busybox), '1']);
    assert.equal(exitCode, 0);
  });

  itInVm('returns every byte and the exit code, and discards changes outside the writable folders', async () => {
    const kept = mkdtempSync(join(tmpdir(), 'dmapool, vm '));
    const gone = mkdtempSync(join(tmpdir(), 'dmapool-vm-gone-'));
    try {
      const all = Buffer.from(Array.from({ length: 200_000 }, (_, index) => (index * 7 + (index >> 8)) & 0xff));
      writeFileSync(join(gone, 'there'), 'the host wrote this');
      const chunks: { stdout: Buffer[]; stderr: Buffer[] } = { stdout: [], stderr: [] };
      const { exitCode } = await runInVm({
        // `$0` contains the characters that a shell could interpret.
        command: [
          'sh',
          '-c',
          'cat; printf %s "$0" "$VARIABLE" "$PWD" >&2; cat there >&2; echo x > there; echo "$PWD" > "$1/y"; sleep 1000 & exit 7',
          `'"\\$(false)\n*é`,
          kept,
        ],
        stdin: all,
        cwd: gone,
        env: { VARIABLE: ' value ' },
        writable: [kept],
        onOutput: (stream, data) => chunks[stream].push(data),
      });
      assert.equal(exitCode, 7);
      assert.equal(Buffer.compare(Buffer.concat(chunks.stdout), all), 0, 'standard output is standard input');
      assert.equal(Buffer.concat(chunks.stderr).toString(), `'"\\$(false)\n*é value ${gone}the host wrote this`);
      assert.equal(readFileSync(join(kept, 'y'), 'utf8'), `${gone}\n`);
      assert.equal(readFileSync(join(gone, 'there'), 'utf8'), 'the host wrote this');
    } finally {
      rmSync(kept, { recursive: true });
      rmSync(gone, { recursive: true });
    }
  });

  itInVm('ends the processes that outlive the command, and relays their last output', async () => {
    const left = `
      (trap 'echo bye; exit' TERM; while :; do sleep 0.1; done) &
      (trap '' TERM; while :; do sleep 0.1; done) &
      sleep 1
      for each in 1 2 3 4 5 6 7 8; do sleep 1000 & done
      exit 3
    `;
    const { exitCode, stdout } = await shellInVm(left, { timeout: 20_000 });
    assert.deepEqual({ exitCode, stdout }, { exitCode: 3, stdout: 'bye\n' });
  });

  itInVm('runs Node, and encodes a signal in the exit code', async () => {
    const script = 'console.log(process.version, process.env.DMAPOOL_VM); process.kill(process.pid, "SIGKILL")';
    const { exitCode, stdout } = await runInVm({ command: [process.execPath, '-e', script] });
    assert.equal(stdout, `${process.version} 1\n`);
    assert.equal(exitCode, 137);
  });

  itInVm('exits with 127 for a missing program, and has no IOMMU on request', async () => {
    const { exitCode, stderr } = await runInVm({ command: ['/does/not/exist'] });
    assert.equal(exitCode, 127);
    assert.match(stderr, /\/does\/not\/exist/);
    const { stdout } = await shellInVm('ls /sys/kernel/iommu_groups | wc -l', { iommu: false });
    assert.equal(stdout.trim(), '0');
  });

  itInVm('is killed by a timeout, and the error has the output up to then', async () => {
    const before = machines();
    await assert.rejects(shellInVm('echo begun; sleep 1000', { timeout: 3000 }), (error) => {
      assert(error instanceof VmError);
      assert.equal(error.code, 'ERR_VM_TIMEOUT');
      assert.match(error.message, /longer than 3 s/);
      assert.equal(error.output?.stdout, 'begun\n');
      assert.match(error.output.kernelLog, /Linux version/);
      return true;
    });
    assert.deepEqual(machines(), before);
  });

  itInVm('is killed by an AbortSignal', async () => {
    const controller = new AbortController();
    const onOutput = (): void => {
      controller.abort();
    };
    await assert.rejects(
      shellInVm('echo begun; sleep 1000', { signal: controller.signal, onOutput }),
      (error) => error instanceof VmError && error.code === 'ERR_VM_ABORT',
    );
    await assert.rejects(
      shellInVm('echo begun', { signal: controller.signal }),
      (error) => error instanceof VmError && error.code === 'ERR_VM_ABORT',
    );
  });

  itInVm('distinguishes a kernel panic from an exit code', async () => {
    await assert.rejects(shellInVm('echo before; echo c > /proc/sysrq-trigger; sleep 1000'), (error) => {
      assert(error instanceof VmError);
      assert.equal(error.code, 'ERR_VM_CRASH');
      assert.equal(error.output?.stdout, 'before\n');
      assert.match(error.message, /Kernel panic - not syncing: sysrq triggered crash/);
      return true;
    });
  });

  itInVm('retries once if the kernel panics before the command starts', async () => {
    const messages: string[] = [];
    // Without the kernel's own first process, the kernel looks for a root file system.
    const options = { kernelArguments: ['rdinit=/missing'], onMessage: (line: string) => void messages.push(line) };
    await assert.rejects(shellInVm('true', options), (error) => {
      assert(error instanceof VmError);
      assert.equal(error.code, 'ERR_VM_BOOT');
      assert.match(
        error.message,
        /^the machine failed before it started the command: its console has:\n[^]*Kernel panic/,
      );
      return true;
    });
    assert.equal(messages.filter((line) => /^retrying once: [^]*Kernel panic/.test(line)).length, 1);
  });

  itInVm('passes on QEMU’s message about an unknown device', async () => {
    await assert.rejects(shellInVm('true', { devices: [{ kind: 'raw', device: 'flux-capacitor' }] }), (error) => {
      assert(error instanceof VmError);
      assert.equal(error.code, 'ERR_VM_BOOT');
      assert.match(error.message, /'flux-capacitor' is not a valid device model name/);
      return true;
    });
  });
});

/** Returns the process ids of the machines that this process started. */
function machines(): string[] {
  return readdirSync('/proc').filter((pid) => {
    try {
      const parent = /^PPid:\t(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
      return parent === String(process.pid) && readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes('qemu');
    } catch {
      return false;
    }
  });
}
