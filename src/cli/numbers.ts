import { InvalidArgumentError } from 'commander';

const UNITS: Readonly<Record<string, number>> = { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 };

/** Parses bytes: `4096`, `0x1000`, `4K`, `2M`. The caller checks the range. */
export function parseBytes(text: string): number {
  const [, digits = '', unit = ''] = /^(0x[0-9a-f]+|[0-9]+)([KMG]?)$/i.exec(text) ?? [];
  const value = Number(digits) * (UNITS[unit.toUpperCase()] ?? NaN);
  if (digits === '' || !Number.isSafeInteger(value)) {
    throw new InvalidArgumentError('Not a byte count, such as 4096, 0x1000, 4K or 2M.');
  }
  return value;
}

/** Parses a whole number from `low` to `high`. */
export function parseCount(low: number, high: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^[0-9]+$/.test(text) || value < low || value > high) {
      throw new InvalidArgumentError(`Not a whole number from ${String(low)} to ${String(high)}.`);
    }
    return value;
  };
}
