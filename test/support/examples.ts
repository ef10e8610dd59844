/** The programs in `examples/` that run as they stand, and what each prints. */

/** One program. */
export interface ExampleProgram {
  /** Its file without the ending. */
  readonly name: string;
  /** What it prints; a line `...` stands for any lines. */
  readonly output: string;
  /** Where it runs, besides Node. */
  readonly runsIn: 'browsers too' | 'Bun and Deno too' | 'Node only';
}

export const EXAMPLE_PROGRAMS: readonly ExampleProgram[] = [
  {
    name: 'first-pool',
    runsIn: 'browsers too',
    output: `descriptors at 0x1000 and 0x1060
42 blocks on a page of 4096 bytes
the device follows the link to block 1
ERR_DMAPOOL_NOT_ALLOCATED: 0000:00:02.0: pool transfer: block 1 at 0x1060 is not allocated
the same block again: true
poolinfo - 0.1
transfer            2   42   96  1

0 bytes in use
`,
  },
  {
    name: 'receive-ring',
    runsIn: 'browsers too',
    output: `100000 packets received, 0 wrong, 0 missed
a program that frees nothing: 64 packets held, 104 missed
poolinfo - 0.1
rx buffer         128  128 2048 64
rx ring             1    4 1024  1

`,
  },
  {
    name: 'pipeline',
    runsIn: 'Bun and Deno too',
    output: `worker 3 was killed: 63 jobs recalled, 1 started again
1 of its 1 blocks reclaimed
2000 jobs finished, 0 wrong, 0 blocks allocated
`,
  },
  {
    name: 'emulated-device',
    runsIn: 'browsers too',
    output: `within the pool: copied
all bytes are equal: true
  copy0: IOMMU fault: write of 4096 bytes at 0x103000, which is not mapped
one page too far: fault
  copy0: IOMMU fault: write of 4096 bytes at 0x40000, which is not mapped
another device's memory: fault
changed there: false
  copy0: IOMMU fault: write of 64 bytes at 0x3000, which is not mapped
after the block was freed and its page returned: fault
the IOMMU stopped 3 accesses
`,
  },
  {
    name: 'direct-io',
    runsIn: 'Node only',
    output: `16 MiB written and read with O_DIRECT, 8 blocks of 65536 bytes used
the same bytes: true; blocks in use now: 0
`,
  },
  {
    name: 'wasm-chain',
    runsIn: 'browsers too',
    output: `10 blocks, the first at pointer 65536
the module's sum is 1273080, expected 1273080
poolinfo - 0.1
link               10   12 1024  3

`,
  },
];

/** Compares the output with the expected one, without what depends on the timing of threads. */
export function generalOutput(printed: string): string {
  return printed
    .replaceAll('\r', '')
    .replace(/^worker \d+ was killed: \d+ jobs recalled/m, 'worker 3 was killed: 63 jobs recalled');
}
