/**
 * Runs a command in a virtual machine with an IOMMU, selected devices and the host's files.
 *
 *     host                                          guest
 *     runInVm --- QEMU --- virtio-serial port --- control      stages, exit code; "off"
 *                                             --- stdin, stdout, stderr
 *                                             --- kernel-log   /dev/kmsg
 *                      --- serial line ---------- console      firmware, early kernel, panics
 *                      --- virtio-9p ------------ /            read-only lower layer of an overlay
 *
 * Each port is a socket that QEMU inherits. Images and the initramfs are unlinked files. QEMU dies with its parent
 * (PR_SET_PDEATHSIG). So a kill of either process leaves no file and no process behind.
 */

import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Duplex, Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { acceleratorArguments, chooseAccelerator, type Accelerator } from './accelerator.ts';
import { cpioArchive, file, folder } from './cpio.ts';
import { deviceArguments, pciModels } from './devices.ts';
import { VmError, type VmErrorCode, type VmOutput } from './error.ts';
import { formatKernelLog } from './kernel-log.ts';
import { bootModules, cachedKernel, fetchKernel, kernelSeries, type VmKernel } from './kernel.ts';
import {
  guestCommand,
  guestSettings,
  kernelArguments,
  shapeArguments,
  shapeOf,
  writableFolders,
  type VmOptions,
} from './options.ts';
import { findTool, needTool } from './tools.ts';
import { unlinkedFile } from './unlinked-file.ts';

/** The result of a run whose command ended by itself. */
export interface VmResult extends VmOutput {
  /** The command's exit code; 128 plus the signal's number if a signal ended it, as in a shell. */
  readonly exitCode: number;
  /** The accelerator of the run. */
  readonly accelerator: 'kvm' | 'tcg';
  /** The stages of the run, in order. */
  readonly stages: readonly VmStage[];
}

/** A stage of a run. */
export interface VmStage {
  /** `kernel` booted, `files` mounted, `drivers` loaded, `command` ended, machine `off`. */
  readonly name: string;
  /** The end of the stage, in milliseconds since the start of the run. */
  readonly at: number;
}

const GUEST_SCRIPTS = fileURLToPath(new URL('../../../scripts/vm/guest/', import.meta.url));
// Numbers of the descriptors that QEMU inherits.
const PORTS = { control: 3, stdin: 4, stdout: 5, stderr: 6, 'kernel-log': 7, console: 8 } as const;
type Port = keyof typeof PORTS;
/** The streams that a run collects. */
type Stream = 'stdout' | 'stderr' | 'kernel-log' | 'console' | 'qemu';
const ABORTED = 'the machine was killed by an abort signal';
const INITRAMFS = 9;
const FIRST_FILE = 10;
// In milliseconds. A boot takes 4 seconds under TCG on an idle host, and less under KVM.
const BOOT_TIMEOUT = { kvm: 20_000, tcg: 120_000 } as const;

/** The first line of an oops or a panic. Its registers and stack follow. */
const OOPS = /^.*(?:BUG: |Oops: |general protection fault|Kernel panic)/m;

const POWER_OFF_TIMEOUT = 30_000;

/** The reason why `runInVm` would need a download or an installation, or null. */
export function vmUnavailable(): string | null {
  if (findTool('qemu-system-x86_64') === null) return 'qemu-system-x86_64 is not installed (Debian: qemu-system-x86)';
  if (findTool('setpriv') === null) return 'setpriv is not installed (Debian: util-linux)';
  if (cachedKernel(kernelSeries()) === null) return 'no kernel for the virtual machine: npm run vm -- --prepare';
  return null;
}

/**
 * Runs `options.command` in a virtual machine. Resolves when the command has ended by itself and the machine is off.
 * Rejects with a `VmError` otherwise, when the machine has ended.
 *
 * @example
 * ```ts
 * const { stdout } = await runInVm({ command: ['cat', '/proc/meminfo'], hugepages: { '2M': 64 } });
 * ```
 */
export async function runInVm(options: VmOptions): Promise<VmResult> {
  const qemu = needTool('qemu-system-x86_64', 'qemu-system-x86');
  const setpriv = needTool('setpriv', 'util-linux');
  const log = options.onMessage ?? (() => undefined);
  // Check the options before the first download or process.
  shapeOf(options);
  guestCommand(options);
  const series = kernelSeries(options.kernel);
  const kernel = cachedKernel(series) ?? (await fetchKernel(series, log));
  const accelerator = selectAccelerator(options);
  log(accelerator.why);
  try {
    return await new Run(options, kernel, accelerator.name).result(setpriv, qemu);
  } catch (error) {
    // The command has not started, so a retry is safe.
    if (!(error instanceof VmError) || error.code !== 'ERR_VM_BOOT' || error.output === undefined) throw error;
    if (accelerator.name === 'kvm' && !accelerator.forced && error.output.kernelLog === '') {
      // Some hosts have a KVM that can't run this kernel.
      log(`KVM can't boot the guest on this host; retrying with TCG (${error.message.split('\n', 1)[0]!})`);
      return await new Run(options, kernel, 'tcg').result(setpriv, qemu);
    }
    // Linux 6.12 can panic during the boot under TCG: 1 of 230 boots on a busy host did.
    if (!OOPS.test(error.output.console)) throw error;
    log(`retrying once: ${error.message}`);
    return await new Run(options, kernel, accelerator.name).result(setpriv, qemu);
  }
}

function selectAccelerator(options: VmOptions): Accelerator {
  const name = options.accelerator ?? process.env['DMAPOOL_VM_ACCEL'];
  if (name === undefined || name === '') return chooseAccelerator();
  if (name === 'kvm' || name === 'tcg') return { name, why: `${name.toUpperCase()} (selected)`, forced: true };
  throw new VmError('ERR_VM_OPTION', `the accelerator must be kvm or tcg, not ${name}`);
}

class Run {
  readonly #options: VmOptions;
  readonly #kernel: VmKernel;
  readonly #accelerator: 'kvm' | 'tcg';
  readonly #begin: number = performance.now();
  readonly #stages: VmStage[] = [];
  readonly #text: Record<Stream, Buffer[]> = {
    stdout: [],
    stderr: [],
    'kernel-log': [],
    console: [],
    qemu: [],
  };
  #exitCode: number | null = null;
  #off = false;
  #failure: { code: VmErrorCode; message: string } | null = null;

  constructor(options: VmOptions, kernel: VmKernel, accelerator: 'kvm' | 'tcg') {
    this.#options = options;
    this.#kernel = kernel;
    this.#accelerator = accelerator;
  }

  async result(setpriv: string, qemu: string): Promise<VmResult> {
    const options = this.#options;
    const files: number[] = [];
    const models = await pciModels(qemu, options.devices ?? []);
    let child: ChildProcess;
    try {
      files.push(unlinkedFile(this.#initramfs()));
      const devices = deviceArguments(options.devices ?? [], FIRST_FILE, models);
      files.push(...devices.files);
      const args = ['--pdeathsig', 'KILL', '--', qemu, ...this.#machineArguments(), ...devices.args];
      if (options.signal?.aborted === true) throw new VmError('ERR_VM_ABORT', ABORTED);
      child = spawn(setpriv, [...args, ...(options.qemuArguments ?? [])], {
        stdio: [
          options.console === true ? 'inherit' : 'ignore',
          options.console === true ? 'inherit' : 'ignore',
          'pipe',
          ...Object.values(PORTS).map(() => 'pipe' as const),
          ...files,
        ],
      });
    } finally {
      for (const fd of files) closeSync(fd);
    }
    await this.#waitForEnd(child);
    return this.#conclude();
  }

  /** Contains busybox, the modules for the host's file system, the guest's scripts and the command. */
  #initramfs(): Buffer {
    const script = (name: string): Buffer => readFileSync(join(GUEST_SCRIPTS, name));
    return cpioArchive([
      ...['bin', 'dev', 'host', 'job', 'modules', 'proc', 'root', 'sys', 'writes'].map(folder),
      file('bin/busybox', readFileSync(join(this.#kernel.folder, 'busybox')), 0o755),
      ...bootModules(this.#kernel).map(({ name, content }) => file(`modules/${name}`, content)),
      file('init', script('init.sh'), 0o755),
      file('job/run.sh', script('run.sh')),
      file('job/settings', guestSettings(this.#options, this.#kernel)),
      file('job/command', guestCommand(this.#options)),
    ]);
  }

  #machineArguments(): string[] {
    const { iommu = true, console: onConsole = false } = this.#options;
    const args = [
      ...['-machine', 'q35,sata=off,smbus=off,usb=off,kernel-irqchip=split'],
      ...acceleratorArguments(this.#accelerator),
      ...['-nodefaults', '-no-user-config', '-no-reboot', '-display', 'none'],
      ...shapeArguments(shapeOf(this.#options)),
      ...['-kernel', join(this.#kernel.folder, 'vmlinux'), '-initrd', `/dev/fd/${INITRAMFS}`],
      ...['-append', kernelArguments(this.#options)],
    ];
    if (iommu !== false) args.push('-device', `intel-iommu,intremap=on${iommu === true ? '' : `,${iommu}`}`);
    args.push('-virtfs', 'local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap');
    writableFolders(this.#options).forEach((path, index) => {
      const place = `path=${path.replaceAll(',', ',,')},mount_tag=share${index}`;
      args.push('-virtfs', `local,${place},security_model=none,multidevs=remap`);
    });
    args.push('-device', `virtio-serial-pci,max_ports=${Object.keys(PORTS).length}`);
    for (const [name, fd] of Object.entries(PORTS)) {
      if (name !== 'console') {
        args.push('-chardev', `socket,id=${name},fd=${fd}`, '-device', `virtserialport,chardev=${name},name=${name}`);
      } else if (onConsole) {
        args.push('-serial', 'mon:stdio');
      } else {
        args.push('-chardev', `socket,id=console,fd=${fd}`, '-serial', 'chardev:console');
      }
    }
    return args;
  }

  /** Resolves when the machine has ended and all its output has arrived. */
  async #waitForEnd(child: ChildProcess): Promise<void> {
    const { timeout = 600_000, signal, onOutput } = this.#options;
    const bootTimeout = BOOT_TIMEOUT[this.#accelerator];
    const port = (name: Port): Duplex => (child.stdio as readonly unknown[])[PORTS[name]] as Duplex;
    const collect = (stream: Readable, into: Buffer[], onData?: (data: Buffer) => void): void => {
      stream.on('data', (data: Buffer) => {
        into.push(data);
        onData?.(data);
      });
      // A killed machine resets its sockets. `close` of the process reports its end.
      stream.on('error', () => undefined);
    };
    for (const name of ['stdout', 'stderr'] as const) {
      collect(port(name), this.#text[name], (data) => onOutput?.(name, data));
    }
    collect(port('console'), this.#text.console);
    collect(child.stderr!, this.#text.qemu);
    collect(port('kernel-log'), this.#text['kernel-log'], () => {
      this.#switchOff(port('control'));
    });
    port('stdin')
      .on('error', () => undefined)
      .resume();

    const end = (code: VmErrorCode, message: string): void => {
      this.#failure ??= { code, message };
      child.kill('SIGKILL');
    };
    const timers = [
      setTimeout(() => {
        if (!this.#reached('drivers')) end('ERR_VM_BOOT', `the command had not started after ${bootTimeout / 1000} s`);
      }, bootTimeout),
    ];
    let late: NodeJS.Timeout | undefined;
    const started = (): void => {
      this.#feed(port('stdin'));
      const message = `the command took longer than ${timeout / 1000} s; the machine was killed`;
      late = setTimeout(end, timeout, 'ERR_VM_TIMEOUT', message);
    };
    const ended = (): void => {
      clearTimeout(late);
      // The result is complete. Kill a machine that does not power off.
      timers.push(setTimeout(() => child.kill('SIGKILL'), POWER_OFF_TIMEOUT));
    };
    this.#listen(port('control'), started, ended);
    const abort = (): void => {
      end('ERR_VM_ABORT', ABORTED);
    };
    signal?.addEventListener('abort', abort, { once: true });
    try {
      await new Promise<void>((resolve, reject) => {
        child.once('error', reject);
        child.once('close', () => {
          resolve();
        });
      });
    } finally {
      for (const timer of [...timers, late]) clearTimeout(timer);
      signal?.removeEventListener('abort', abort);
    }
    this.#reach('off');
  }

  #feed(port: Duplex): void {
    const { stdin } = this.#options;
    if (stdin === undefined) return;
    if (typeof stdin === 'string' || stdin instanceof Uint8Array) port.end(stdin);
    else stdin.pipe(port);
  }

  /** Handles the guest's lines: `stage NAME`, `error MESSAGE`, `exit CODE`. */
  #listen(control: Duplex, started: () => void, ended: () => void): void {
    let rest = '';
    control.on('error', () => undefined);
    control.on('data', (data: Buffer) => {
      const lines = (rest + data.toString()).split('\n');
      rest = lines.pop()!;
      for (const line of lines) {
        const [word, ...more] = line.split(' ');
        const text = more.join(' ');
        if (word === 'stage') {
          this.#reach(text);
          if (text === 'drivers') started();
        } else if (word === 'exit') {
          this.#exitCode = Number(text);
          this.#reach('command');
          ended();
          this.#switchOff(control);
        } else if (word === 'error') {
          this.#failure ??= { code: 'ERR_VM_BOOT', message: text };
          control.write('off\n');
        }
      }
    });
  }

  /** Lets the guest power off when its last kernel message has arrived. */
  #switchOff(control: Duplex): void {
    if (this.#exitCode === null) return;
    const tail = Buffer.concat(this.#text['kernel-log'].slice(-4)).toString('latin1');
    if (!this.#off && tail.includes('dmapool-vm: the command ended with ')) {
      this.#off = true;
      control.write('off\n');
    }
  }

  #reach(name: string): void {
    this.#stages.push({ name, at: performance.now() - this.#begin });
  }

  #reached(name: string): boolean {
    return this.#stages.some((stage) => stage.name === name);
  }

  #conclude(): VmResult {
    const text = (name: Stream): string => Buffer.concat(this.#text[name]).toString();
    const output: VmOutput = {
      stdout: text('stdout'),
      stderr: text('stderr'),
      kernelLog: formatKernelLog(text('kernel-log')),
      console: text('console'),
    };
    // The cards' hub has no connection to the host's network, by design.
    const qemuErrors = text('qemu')
      .replace(/^.*warning: hub \d+ is not connected to host network\n/gm, '')
      .trim();
    if (this.#failure !== null) throw new VmError(this.#failure.code, this.#failure.message, output);
    if (this.#exitCode !== null) {
      if (qemuErrors !== '') this.#options.onMessage?.(qemuErrors);
      return { exitCode: this.#exitCode, accelerator: this.#accelerator, stages: this.#stages, ...output };
    }
    const why = qemuErrors === '' ? `its console has:\n${tailOf(output.console)}` : qemuErrors;
    if (!this.#reached('drivers')) {
      throw new VmError('ERR_VM_BOOT', `the machine failed before it started the command: ${why}`, output);
    }
    throw new VmError('ERR_VM_CRASH', `the machine ended before the command did: ${why}`, output);
  }
}

/** Returns the end of a console's output: from the first oops or panic, else the last 30 lines. */
function tailOf(text: string): string {
  const begin = text.search(OOPS);
  return (begin === -1 ? text.trimEnd().split('\n').slice(-30).join('\n') : text.slice(begin)).trimEnd();
}
