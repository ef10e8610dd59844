/** Options of a machine, and QEMU's command line. */
import {
  checkFunction,
  checkInteger,
  checkObject,
  checkSignal,
  type OptionNames,
  reading,
  readOptions,
} from '../arguments.ts';
import { DmaArgumentError, isArray } from '../errors.ts';
import { consoleLog, type DeviceLog } from '../device/log.ts';
import { FIRMWARE_FD, QMP_FD, QTEST_FD, RAM_FD } from './process.ts';

/** A QEMU option as an object: `{ driver: 'nvme', id: 'nvme0', drive: 'disk0', serial: '1' }`. */
export type QemuOptionObject = Readonly<Record<string, string | number | boolean>>;

/** A QEMU option: as on its command line (`e1000,netdev=n0`; a comma in a value is doubled), or as an object. */
export type QemuOption = string | QemuOptionObject;

/** A disk image for a device to use by `drive=ID`. */
export interface QemuDrive {
  /** Name for devices to refer to. */
  readonly id: string;
  /** Path of the image. */
  readonly file: string;
  /** Format of the image. Default `raw`: the file holds the disk's bytes. */
  readonly format?: string;
  /** True: writes fail. */
  readonly readOnly?: boolean;
  /** Additional options of `-drive`, such as `{ cache: 'unsafe' }`. */
  readonly options?: QemuOptionObject;
}

/** Options of {@link QemuMachine.start}. */
export interface QemuMachineOptions {
  /** Bytes of RAM, a multiple of 1 MiB from 8 MiB to 3 GiB. Default 64 MiB. Untouched RAM uses no memory. */
  readonly memory?: number;
  /**
   * Bytes of the RAM above 4 GiB, a multiple of 1 MiB that leaves at least 4 MiB below; default 0. Devices that reach
   * it get high addresses first, which exposes drivers that truncate addresses.
   */
  readonly highMemory?: number;
  /** Devices, as for `-device`. PCI devices get free slots in order. The `id` of a device identifies its function. */
  readonly devices?: readonly QemuOption[];
  /** Disk images. */
  readonly drives?: readonly QemuDrive[];
  /**
   * Network back ends, as for `-netdev`. Two of `{ type: 'hubport', id: 'n0', hubid: 0 }` connect two network cards.
   */
  readonly netdevs?: readonly QemuOption[];
  /**
   * `pc` (the default): conventional PCI, all devices can be unplugged. `q35`: PCI Express, devices behind a
   * `pcie-root-port` can be unplugged.
   */
  readonly machine?: 'pc' | 'q35';
  /** Additional arguments for QEMU, after the generated ones. */
  readonly args?: readonly string[];
  /** The program. Default `qemu-system-x86_64`, from the PATH. */
  readonly binary?: string;
  /** Milliseconds until the machine must be ready, 1 to 600,000. Default 20000. */
  readonly startTimeout?: number;
  /** Milliseconds until QEMU must reply to a command, 1 to 600,000; then it is killed. Default 10000. */
  readonly commandTimeout?: number;
  /** Log for reports of stray writes. Default: the console. */
  readonly log?: DeviceLog;
  /** Aborts the start, or closes the machine. */
  readonly signal?: AbortSignal;
}

/** Options with defaults applied. */
export interface CheckedOptions extends Required<Omit<QemuMachineOptions, 'signal'>> {
  readonly signal: AbortSignal | undefined;
}

const MACHINE_OPTIONS: OptionNames<QemuMachineOptions> = {
  memory: true,
  highMemory: true,
  devices: true,
  drives: true,
  netdevs: true,
  machine: true,
  args: true,
  binary: true,
  startTimeout: true,
  commandTimeout: true,
  log: true,
  signal: true,
};
const DRIVE_OPTIONS: OptionNames<QemuDrive> = { id: true, file: true, format: true, readOnly: true, options: true };

export const MIB: number = 1024 * 1024;
const MAX_TIMEOUT = 600_000;
const MIN_MEMORY = 8 * MIB;
const MAX_MEMORY = 3072 * MIB;
const MIN_LOW_MEMORY = 4 * MIB;

/** Checks the options and applies defaults. @throws `DmaArgumentError` */
export function checkOptions(options: QemuMachineOptions): CheckedOptions {
  const {
    memory = 64 * MIB,
    highMemory = 0,
    devices = [],
    drives = [],
    netdevs = [],
    machine = 'pc',
    args = [],
    binary = 'qemu-system-x86_64',
    startTimeout = 20_000,
    commandTimeout = 10_000,
    log = consoleLog,
    signal,
  } = readOptions('options', options, MACHINE_OPTIONS);
  checkMebibytes('memory', memory, MIN_MEMORY, MAX_MEMORY);
  checkMebibytes('highMemory', highMemory, 0, memory - MIN_LOW_MEMORY);
  checkInteger('startTimeout', startTimeout, 1, MAX_TIMEOUT);
  checkInteger('commandTimeout', commandTimeout, 1, MAX_TIMEOUT);
  if (machine !== 'pc' && machine !== 'q35') throw new DmaArgumentError('machine', machine, 'pc or q35');
  // With more, a q35 machine moves RAM from 0x80000000 up to above 4 GiB.
  if (machine === 'q35') checkMebibytes('memory of a q35', memory, MIN_MEMORY, 2048 * MIB);
  if (typeof binary !== 'string' || binary === '' || binary.includes('\0')) {
    throw new DmaArgumentError('binary', binary, 'a program');
  }
  checkSignal('signal', signal);
  checkObject('log', log, 'a log');
  reading('log', log, 'a log', () => {
    checkFunction('log.error', (log as { readonly error?: unknown }).error);
  });
  for (const [name, list] of Object.entries({ devices, drives, netdevs, args })) {
    if (!isArray(list)) throw new DmaArgumentError(name, list, 'an array');
  }
  for (const arg of args) if (typeof arg !== 'string') throw new DmaArgumentError('args', arg, 'texts');
  return {
    memory,
    highMemory,
    devices,
    drives,
    netdevs,
    machine,
    args,
    binary,
    startTimeout,
    commandTimeout,
    log,
    signal,
  };
}

/** Builds QEMU's command line. */
export function commandLine(options: CheckedOptions): string[] {
  const words = allWords(options);
  for (const word of words) {
    if (word.includes('\0')) throw new DmaArgumentError('options', word, 'texts without NUL');
  }
  return words;
}

function allWords(options: CheckedOptions): string[] {
  const { memory, highMemory, machine, devices, drives, netdevs, args } = options;
  const size = `${String(memory / MIB)}M`;
  const lines = [
    '-nodefaults',
    '-no-user-config',
    ['-display', 'none'],
    // The CPU only halts, so acceleration gains nothing.
    ['-accel', 'tcg'],
    [
      '-machine',
      text('machine', {
        type: machine,
        'memory-backend': 'ram',
        usb: false,
        ...(highMemory === 0 ? {} : { 'max-ram-below-4g': `${String((memory - highMemory) / MIB)}M` }),
      }),
    ],
    ['-m', size],
    [
      '-object',
      text('object', {
        'qom-type': 'memory-backend-file',
        id: 'ram',
        share: true,
        'mem-path': `/proc/self/fd/${String(RAM_FD)}`,
        size,
      }),
    ],
    ['-bios', `/proc/self/fd/${String(FIRMWARE_FD)}`],
    // No option ROM runs, and the files may not be installed.
    ['-global', 'driver=pci-device,property=romfile,value='],
    ['-chardev', `socket,id=qtest,fd=${String(QTEST_FD)}`],
    ['-qtest', 'chardev:qtest'],
    ['-qtest-log', 'none'],
    ['-chardev', `socket,id=qmp,fd=${String(QMP_FD)}`],
    ['-mon', 'chardev=qmp,mode=control'],
    ...drives.map((drive) => ['-drive', driveText(drive)]),
    ...netdevs.map((netdev) => ['-netdev', text('netdevs', netdev)]),
    ...devices.map((device) => ['-device', text('devices', device)]),
  ];
  return [...lines.flat(), ...args];
}

function driveText(drive: QemuDrive): string {
  const { id, file, format = 'raw', readOnly = false, options = {} } = readOptions('drives', drive, DRIVE_OPTIONS);
  if (typeof id !== 'string' || id === '') throw new DmaArgumentError('drives: id', id, 'a name');
  if (typeof file !== 'string' || file === '') throw new DmaArgumentError('drives: file', file, 'a path');
  const more = 'an object with options of -drive';
  checkObject('drives: options', options, more);
  const others = reading('drives: options', options, more, () => ({ ...options }));
  return text('drives', { if: 'none', id, file, format, readonly: readOnly, ...others });
}

/** Keys whose values come first, without the key. */
const LEADING: readonly string[] = ['driver', 'type', 'qom-type'];

/** Formats an option for the command line. */
function text(argument: string, option: QemuOption): string {
  if (typeof option === 'string' && option !== '') return option;
  if (typeof option !== 'object' || option === null) {
    throw new DmaArgumentError(argument, option, 'a string as on the command line, or an object');
  }
  const entries = reading(argument, option, 'an object that can be read', () => Object.entries(option));
  for (const [key, value] of entries) {
    if (!/^[\w.-]+$/.test(key) || !['string', 'number', 'boolean'].includes(typeof value)) {
      throw new DmaArgumentError(`${argument}: ${key}`, value, 'a string, number or boolean');
    }
  }
  const leading = entries.find(([key]) => LEADING.includes(key));
  const rest = entries.filter((entry) => entry !== leading);
  return [...(leading === undefined ? [] : [escape(leading[1])]), ...rest.map(([k, v]) => `${k}=${escape(v)}`)].join(
    ',',
  );
}

function escape(value: string | number | boolean): string {
  if (typeof value === 'boolean') return value ? 'on' : 'off';
  return String(value).replaceAll(',', ',,');
}

function checkMebibytes(argument: string, value: unknown, low: number, high: number): void {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < low || value > high || value % MIB !== 0) {
    throw new DmaArgumentError(argument, value, `a multiple of 1 MiB from ${String(low)} to ${String(high)}`);
  }
}
