const PER_ROW = 16;
/** Rows shown, so that a report of a large block stays readable. */
const MAX_ROWS = 16;

/**
 * Rows of 16 bytes in hex and ASCII, as the kernel's `print_hex_dump` has them. Of a long block only the rows from
 * the one with byte `from` on, and how many were left out.
 */
export function hexDump(bytes: Uint8Array, from = 0): string {
  const rows: string[] = [];
  const all = Math.ceil(bytes.length / PER_ROW);
  const first = all <= MAX_ROWS ? 0 : Math.min(Math.floor(from / PER_ROW), all - MAX_ROWS);
  const last = Math.min(all, first + MAX_ROWS);
  if (first > 0) rows.push(`  ... ${String(first * PER_ROW)} bytes before`);
  for (let row = first; row < last; row++) {
    const part = bytes.subarray(row * PER_ROW, (row + 1) * PER_ROW);
    const numbers = Array.from(part, (byte) => byte.toString(16).padStart(2, '0')).join(' ');
    const text = Array.from(part, (byte) => (byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : '.')).join('');
    const offset = (row * PER_ROW).toString(16).padStart(8, '0');
    rows.push(`  ${offset}: ${numbers.padEnd(PER_ROW * 3 - 1)}  ${text}`);
  }
  if (last < all) rows.push(`  ... ${String(bytes.length - last * PER_ROW)} bytes after`);
  return rows.join('\n');
}
