/** Helpers of the disk demos. */
import { createHash, randomBytes } from 'node:crypto';
import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { QemuMachine, type QemuOption } from '../qemu/index.ts';
import { CliExit, EXIT } from './io.ts';
import type { Style } from './style.ts';

/** A disk's image, read without the driver and QEMU. */
export interface DiskImage {
  /** Compares transferred bytes with the whole image by SHA-256. Returns the result as text. */
  readonly compare: (bytes: Uint8Array, style: Style) => string;
}

/**
 * Runs `use` with a machine that has a disk of random bytes, `disk0`. The image is unlinked as soon as it is open: no
 * file remains, however the process ends.
 */
export async function withDisk<T>(
  size: number,
  devices: readonly QemuOption[],
  use: (machine: QemuMachine, image: DiskImage) => Promise<T>,
): Promise<T> {
  const { machine, fd } = await startMachine(size, devices);
  try {
    return await use(machine, { compare: (bytes, style) => compare(bytes, fd, style) });
  } finally {
    await machine.close();
    closeSync(fd);
  }
}

async function startMachine(
  size: number,
  devices: readonly QemuOption[],
): Promise<{ readonly machine: QemuMachine; readonly fd: number }> {
  const folder = mkdtempSync(join(tmpdir(), 'dmapool-demo-'));
  try {
    const file = join(folder, 'disk.img');
    writeFileSync(file, randomBytes(size));
    const machine = await QemuMachine.start({ drives: [{ id: 'disk0', file }], devices });
    return { machine, fd: openSync(file, 'r') };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function compare(bytes: Uint8Array, fd: number, style: Style): string {
  const image = new Uint8Array(bytes.length);
  readSync(fd, image, 0, image.length, 0);
  const ours = sha256(bytes);
  const theirs = sha256(image);
  if (ours !== theirs) throw new CliExit(EXIT.failure, `SHA-256 ${ours}, but the image has ${theirs}`);
  return `SHA-256 ${ours.slice(0, 16)}... ${style.good('as in the image')}`;
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
