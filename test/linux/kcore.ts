/**
 * Reads physical memory through /proc/kcore, an ELF core file of the running kernel: an independent source for the
 * content of a physical address. Needs root.
 */
import { closeSync, openSync, readSync } from 'node:fs';

const PT_LOAD = 1;

/** The bytes at a physical address of RAM. */
export function readPhysical(address: number, length: number): Uint8Array {
  const fd = openSync('/proc/kcore', 'r');
  try {
    const header = read(fd, 0, 64);
    const programHeaders = Number(header.getBigUint64(32, true));
    const entrySize = header.getUint16(54, true);
    const count = header.getUint16(56, true);
    for (let index = 0; index < count; index++) {
      const entry = read(fd, programHeaders + index * entrySize, entrySize);
      const offset = Number(entry.getBigUint64(8, true));
      const virtual = entry.getBigUint64(16, true);
      const physical = Number(entry.getBigUint64(24, true));
      const size = Number(entry.getBigUint64(32, true));
      // The direct map of all RAM begins below the kernel's own image, which is a second view of a part of it.
      const directMap = virtual < 0xffff_f000_0000_0000n;
      if (entry.getUint32(0, true) !== PT_LOAD || !directMap) continue;
      if (address < physical || address + length > physical + size) continue;
      return new Uint8Array(read(fd, offset + (address - physical), length).buffer);
    }
    throw new Error(`no RAM at ${address.toString(16)}`);
  } finally {
    closeSync(fd);
  }
}

function read(fd: number, position: number, length: number): DataView {
  const view = new DataView(new ArrayBuffer(length));
  for (let at = 0; at < length;) {
    const got = readSync(fd, view, at, length - at, position + at);
    if (got === 0) throw new Error(`/proc/kcore ends at ${String(position + at)}`);
    at += got;
  }
  return view;
}
