/** What a page shows of a program's output, compared with what the program prints. */
import assert from 'node:assert/strict';

/** Asserts that `printed` is `shown`, whose lines `...` stand for any lines. */
export function assertPrinted(printed: string, shown: string): void {
  const parts = `\n${shown}`.split(/\n\.\.\.(?=\n)/);
  const pattern = parts.map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')).join('(?:\\n.*)*?');
  if (!new RegExp(`^${pattern}$`).test(`\n${printed}`)) assert.equal(printed, shown);
}
