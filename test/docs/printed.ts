/** Compares the output that a page shows with the output of the program. */
import assert from 'node:assert/strict';

/** Asserts that `printed` equals `shown`, whose lines `...` stand for any lines. */
export function assertPrinted(printed: string, shown: string): void {
  const parts = `\n${shown}`.split(/\n\.\.\.(?=\n)/);
  const pattern = parts.map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')).join('(?:\\n.*)*?');
  if (!new RegExp(`^${pattern}$`).test(`\n${printed}`)) assert.equal(printed, shown);
}
