import { existsSync } from 'node:fs';
import { gzipSync } from 'node:zlib';

import type { TraceEvent } from 'dmapool/trace';
import { readTrace } from 'dmapool/trace';

/** Names of the recorded traces, in folders by kernel. */
const DRIVERS = ['e100', 'ehci', 'megasas', 'mixed', 'nvme', 'ohci', 'uhci', 'usb-iso', 'xhci'];
export const TRACES: readonly string[] = [
  ...DRIVERS.map((name) => `6.1/${name}`),
  ...[...DRIVERS, 'mixed-smp4', 'nvme-grow', 'nvme-smp2'].map((name) => `6.12/${name}`),
];

/** Path of a file of the checkout, independent of the build folder. */
export function checkoutPath(file: string): string {
  for (
    let directory = new URL('../', import.meta.url);
    directory.pathname !== '/';
    directory = new URL('../', directory)
  ) {
    const url = new URL(file, directory);
    if (existsSync(url)) return url.pathname;
  }
  throw new Error(`no ${file} above ${import.meta.url}`);
}

/** Path of a recorded trace or its expectations. */
export function tracePath(file: string): string {
  return checkoutPath(`traces/${file}`);
}

/** A line of fields. */
export function line(...fields: readonly (string | number)[]): string {
  return fields.join('\t');
}

export const MAGIC = '#dma_pool-trace v1';
export const KERNEL = line('#kernel', 'Linux version 6.1.0-56-amd64 (hand-made)');

/** One pool; two blocks of 256 bytes are allocated and freed; snapshot `mid` contains events, `end` none. */
export const SMALL: readonly string[] = [
  MAGIC,
  line('#scenario', 'hand-made'),
  KERNEL,
  '#free: the columns of free',
  line(10, 0, 'create', 0, '0000:00:02.0', 'prp list 256', 256, 256, 0, 256, 4096, 4096),
  line(20, 0, 'alloc', 0, 'K', 0, 0, 0, 'fff00000', 1, 'cc0', 5, 6),
  line(30, 1, 'snap', 'begin', 'mid'),
  line(40, 1, 'alloc', 0, 'AZ', 1, 0, 256, 'fff00100', 2, 'b20', 5, 6),
  line(50, 1, 'snap', 'end', 'mid'),
  line(60, 0, 'free', 0, 0, 0, 0, 'fff00000', 1, 5),
  line(70, 0, 'snap', 'begin', 'end'),
  line(80, 0, 'snap', 'end', 'end'),
  line(90, 0, 'free', 0, 1, 0, 256, 'fff00100', 0, 5),
  line(99, 0, 'destroy', 0),
];

/** The `pools` files of Linux 6.1 for it. */
export const SMALL_POOLS: readonly string[] = [
  '## snapshot=mid t_ns=35 file=/sys/devices/pci0000:00/0000:00:02.0/pools',
  'poolinfo - 0.1',
  'prp list 256        2   16  256  1',
  '## snapshot=end t_ns=75 file=/sys/devices/pci0000:00/0000:00:02.0/pools',
  'poolinfo - 0.1',
  'prp list 256        1   16  256  1',
];

export function bytesOf(lines: readonly string[]): Uint8Array {
  return new TextEncoder().encode(lines.map((text) => `${text}\n`).join(''));
}

export function packed(lines: readonly string[]): Uint8Array {
  return gzipSync(bytesOf(lines));
}

/** A copy with the first occurrence of `from` replaced. */
export function replaced(lines: readonly string[], index: number, from: string, to: string): string[] {
  const old = lines[index]!;
  if (!old.includes(from)) throw new Error(`no ${from} in ${old}`);
  return lines.with(index, old.replace(from, to));
}

export async function eventsOf(source: Parameters<typeof readTrace>[0]): Promise<TraceEvent[]> {
  const events: TraceEvent[] = [];
  for await (const event of readTrace(source, { name: 'x.trace' })) events.push(event);
  return events;
}
