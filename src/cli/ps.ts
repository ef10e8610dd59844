/** `dmapool ps`, `dmapool cat` and `dmapool metrics`: the state of running processes at one moment. */
import type { Command } from 'commander';

import { metricsText, observableProcesses, type Snapshot } from '../observe/index.ts';
import { CliExit, type CliIo, EXIT } from './io.ts';
import { formatBytes, formatDuration, parseCount } from './numbers.ts';
import { requestPath, snapshotOf } from './observed.ts';
import { count, styleFor, table } from './style.ts';

/** Timeout of `ps` in milliseconds. */
const TIMEOUT = 1000;
/** The largest process number (Linux: `PID_MAX_LIMIT`). */
const MAX_PID = 2 ** 22;

/** Reads the number of a process. */
export const parsePid: (text: string) => number = parseCount(1, MAX_PID);

/** One process in `dmapool ps --json`. The figures are null if the process did not answer in time. */
export interface ProcessDocument {
  readonly pid: number;
  readonly program: string | null;
  /** Milliseconds since the start. */
  readonly uptime: number | null;
  readonly devices: number | null;
  readonly pools: number | null;
  /** Allocated blocks. */
  readonly active: number | null;
  /** Bytes of the devices' memory. */
  readonly bytes: number | null;
}

/** Adds `dmapool ps`. */
export function registerPs(program: Command, io: CliIo): void {
  program
    .command('ps')
    .summary('list the processes that can be observed')
    .description(
      'List the processes of this user that can be observed: those started with `node --import dmapool/observe/register`.',
    )
    .option('--json', 'print a JSON document')
    .action(async ({ json }: { json?: true }) => {
      const pids = await observableProcesses();
      const found = await Promise.all(pids.map((pid) => describe(pid)));
      io.stdout.write(json === undefined ? psText(found, io) : `${JSON.stringify(found)}\n`);
    });
}

async function describe(pid: number): Promise<ProcessDocument> {
  let seen: Snapshot;
  try {
    seen = await snapshotOf(pid, TIMEOUT);
  } catch (error) {
    if (!(error instanceof CliExit)) throw error;
    return { pid, program: null, uptime: null, devices: null, pools: null, active: null, bytes: null };
  }
  const pools = seen.devices.flatMap((device) => device.pools);
  return {
    pid,
    program: seen.process.title,
    uptime: seen.process.uptime,
    devices: seen.devices.length,
    pools: pools.length,
    active: pools.reduce((sum, { active }) => sum + active, 0),
    bytes: seen.devices.reduce((sum, { bytes }) => sum + bytes, 0),
  };
}

function psText(found: readonly ProcessDocument[], io: CliIo): string {
  const show = (value: number | null, format: (value: number) => string = count): string =>
    value === null ? '-' : format(value);
  const [heading, ...lines] = table([
    ['PID', 'UP', 'DEVICES', 'POOLS', 'ACTIVE', 'MEMORY'],
    ...found.map(({ pid, uptime, devices, pools, active, bytes }) => [
      String(pid),
      show(uptime, formatDuration),
      show(devices),
      show(pools),
      show(active),
      show(bytes, formatBytes),
    ]),
  ]);
  const programs = found.map(({ program }) => program ?? '(does not answer)');
  return [
    styleFor(io.stdout, io.env).bold(`${heading!}  PROGRAM`),
    ...lines.map((line, i) => `${line}  ${printable(programs[i]!)}`),
    '',
  ].join('\n');
}

/** Text of another process, without control characters. */
export function printable(text: string): string {
  return text.replace(/\p{Cc}/gu, '?');
}

/** Adds `dmapool cat`. */
export function registerCat(program: Command, io: CliIo): void {
  program
    .command('cat')
    .summary("print an attribute of a running process's device, as from sysfs")
    .description("Print an attribute of a device of a running process, in the format of Linux's sysfs.")
    .argument('<pid>', 'number of the process', parsePid)
    .argument('<path>', 'path of the attribute; for a folder, prints the names in it')
    .option('--json', 'print a JSON document')
    .addHelpText('after', '\nExample:\n  $ dmapool cat 4711 /sys/devices/0000:00:09.0/pools')
    .action(async (pid: number, path: string, { json }: { json?: true }) => {
      const url = path.split('/').map(encodeURIComponent).join('/');
      if (!/^\/sys(\/|$)/.test(path)) throw new CliExit(EXIT.usage, `cat: ${path}: a path begins with /sys`);
      const { status, text } = await requestPath(pid, url);
      if (status !== 200) throw new CliExit(EXIT.failure, `cat: ${text.trim()}`);
      io.stdout.write(json === undefined ? text : `${JSON.stringify({ pid, path, text })}\n`);
    });
}

/** Adds `dmapool metrics`. */
export function registerMetrics(program: Command, io: CliIo): void {
  program
    .command('metrics')
    .summary("print the figures of a running process in Prometheus's text format")
    .description("Print the figures of a running process's pools in Prometheus's text format.")
    .argument('<pid>', 'number of the process', parsePid)
    .option('--openmetrics', 'the text format of OpenMetrics 1.0')
    .option('--json', 'print the snapshot that the figures are from, as a JSON document')
    .action(async (pid: number, { json, openmetrics }: { json?: true; openmetrics?: true }) => {
      const seen = await snapshotOf(pid);
      io.stdout.write(
        json === true
          ? `${JSON.stringify(seen)}\n`
          : metricsText(seen, openmetrics === true ? 'openmetrics' : 'prometheus'),
      );
    });
}
