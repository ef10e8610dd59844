/**
 * Archives in the format of Linux's initramfs: cpio "newc" (Documentation/driver-api/early-userspace/buffer-format.rst).
 * An entry consists of a header of 110 ASCII characters, the name and the content. Name and content are padded so that
 * the next part begins at a multiple of 4 bytes.
 */

/** A file or folder of an archive. */
export interface CpioEntry {
  /** Path without a leading slash. A folder precedes its contents. */
  readonly path: string;
  /** Type and permissions as in `st_mode`: 0o040755 for a folder, 0o100644 for a file. */
  readonly mode: number;
  readonly content?: Uint8Array;
}

/** Returns the entry of a folder. */
export function folder(path: string): CpioEntry {
  return { path, mode: 0o040755 };
}

/** Returns the entry of a file. */
export function file(path: string, content: Uint8Array | string, permissions = 0o644): CpioEntry {
  return { path, mode: 0o100000 | permissions, content: Buffer.from(content) };
}

/** Encodes an archive. */
export function cpioArchive(entries: readonly CpioEntry[]): Buffer {
  const parts: Uint8Array[] = [];
  entries.forEach((entry, index) => parts.push(...encode(entry, index + 1)));
  parts.push(...encode({ path: 'TRAILER!!!', mode: 0 }, 0));
  return Buffer.concat(parts);
}

function encode({ path, mode, content = new Uint8Array() }: CpioEntry, inode: number): Uint8Array[] {
  const name = Buffer.from(`${path}\0`);
  // inode, mode, uid, gid, links, mtime, size, device (2), special device (2), length of the name with its NUL, checksum
  const fields = [inode, mode, 0, 0, 1, 0, content.length, 0, 0, 0, 0, name.length, 0];
  const header = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`;
  return [Buffer.from(header), name, padding(header.length + name.length), content, padding(content.length)];
}

function padding(length: number): Uint8Array {
  return new Uint8Array(-length & 3);
}
