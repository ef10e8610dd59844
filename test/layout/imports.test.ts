/** The rules of .dependency-cruiser.js, checked on a fake tree in which each file breaks one rule or none. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../../', import.meta.url));

/** A file with one import, and the rule that it breaks, if any. */
type Case = readonly [file: string, statement: string, rule: string | null];

/** Import statements; each imports a type or a value, which the rules treat alike. */
const type = (module: string): string => `import type { thing } from '${module}';\nexport type Thing = typeof thing;`;
const value = (module: string): string => `export { thing } from '${module}';`;

const CASES: readonly Case[] = [
  ['src/arguments.ts', value('./errors.ts'), null],
  ['src/memory/up.ts', type('../device/device.ts'), 'memory'],
  ['src/memory/node.ts', value('node:fs'), 'memory'],
  ['src/memory/down.ts', value('../arguments.ts'), null],
  ['src/device/up.ts', type('../pool/block.ts'), 'device'],
  ['src/device/down.ts', value('../memory/heap.ts'), null],
  ['src/pool/up.ts', type('../dma-pool.ts'), 'pool'],
  ['src/pool/shared.ts', type('../shared/lock.ts'), 'pool'],
  ['src/pool/kernel.ts', value('../kernel/report.ts'), 'pool'],
  ['src/pool/package.ts', value('koffi'), 'pool'],
  ['src/pool/node.ts', type('node:fs/promises'), 'pool'],
  ['src/pool/later.ts', "export const thing = import('node:fs');", 'pool'],
  ['src/pool/builtin.ts', "export const thing = process.getBuiltinModule('node:fs');", 'pool'],
  ['src/pool/itself.ts', value('dmapool'), 'pool'],
  ['src/pool/down.ts', value('../device/device.ts'), null],
  ['src/pool/beside.ts', value('./block.ts'), null],
  ['src/dma-pool.ts', value('./shared/lock.ts'), 'dma-pool'],
  ['src/index.ts', value('./shared/lock.ts'), 'dmapool'],
  ['src/shared/up.ts', type('../observe/snapshot.ts'), 'shared'],
  ['src/shared/face.ts', type('../index.ts'), 'shared'],
  ['src/shared/down.ts', value('../dma-pool.ts'), null],
  ['src/observe/down.ts', value('../shared/lock.ts'), null],
  ['src/pci/up.ts', type('../linux/libc.ts'), 'pci'],
  ['src/pci/aside.ts', type('../shared/lock.ts'), 'pci'],
  ['src/linux/aside.ts', type('../qemu/ram.ts'), 'linux'],
  ['src/linux/package.ts', value('koffi'), null],
  ['src/linux/node.ts', value('node:fs'), null],
  ['src/linux/commander.ts', value('commander'), 'linux'],
  ['src/qemu/package.ts', value('koffi'), 'qemu'],
  ['src/qemu/down.ts', value('../linux/libc.ts'), null],
  ['src/kernel/aside.ts', type('../shared/lock.ts'), 'kernel'],
  ['src/kernel/node.ts', value('node:fs'), 'kernel'],
  ['src/kernel/down.ts', value('../pool/block.ts'), null],
  ['src/wasm/aside.ts', type('../shared/lock.ts'), 'wasm'],
  ['src/wasm/up.ts', value('../device/device.ts'), 'wasm'],
  ['src/wasm/down.ts', value('../memory/heap.ts'), null],
  ['src/conformance/aside.ts', type('../kernel/report.ts'), 'conformance'],
  ['src/trace/aside.ts', type('../pci/function.ts'), 'trace'],
  ['src/trace/down.ts', value('../index.ts'), null],
  ['src/cli/inside.ts', type('../pool/block.ts'), 'cli'],
  ['src/cli/public.ts', value('../linux/index.ts'), null],
  ['src/cli/driver.ts', value('../../drivers/nvme/index.ts'), null],
  ['src/cli/package.ts', value('commander'), null],
  ['drivers/nvme/path.ts', type('../../src/index.ts'), 'drivers'],
  ['drivers/nvme/backend.ts', type('dmapool/linux'), 'drivers'],
  ['drivers/nvme/other.ts', type('../ehci/index.ts'), 'drivers'],
  ['drivers/nvme/node.ts', value('node:fs'), 'drivers'],
  ['drivers/nvme/arguments.ts', value('dmapool/arguments'), null],
  ['drivers/nvme/names.ts', `${value('dmapool')}\n${type('dmapool/pci')}`, null],
  ['drivers/nvme/common.ts', value('../common/error.ts'), null],
  ['drivers/common/up.ts', type('../nvme/index.ts'), 'drivers/common'],
  ['src/cli/example.ts', value('../../examples/public.ts'), null],
  ['examples/inside.ts', type('../src/pool/block.ts'), 'examples'],
  ['examples/public.ts', `${value('dmapool')}\n${value('node:fs')}`, null],
  ['bench/inside.ts', type('../src/pool/block.ts'), 'bench'],
  ['bench/public.ts', value('dmapool/drivers/nvme'), null],
  ['scripts/inside.ts', type('../src/index.ts'), 'scripts'],
  ['test/pool/own.test.ts', value('../../src/pool/block.ts'), null],
  ['test/pool/other.test.ts', type('../../src/memory/heap.ts'), 'test'],
  ['test/pool/public.test.ts', `${value('dmapool')}\n${value('dmapool/linux')}`, null],
  ['test/pool/package.test.ts', value('koffi'), null],
  ['test/pool/support.test.ts', value('../support/thing.ts'), null],
  ['test/drivers/nvme/own.test.ts', value('../../../drivers/nvme/queue.ts'), null],
  ['test/drivers/nvme/other.test.ts', type('../../../drivers/ehci/queue.ts'), 'test'],
  ['test/fuzz/inside.ts', value('../../src/qemu/ram.ts'), null],
  ['test/fuzz/other.ts', type('../../src/memory/heap.ts'), 'test/fuzz'],
  ['test/shared/own.test.ts', `${value('../../src/shared/lock.ts')}\n${value('../../src/pool/block.ts')}`, null],
  ['test/shared/other.test.ts', type('../../src/memory/heap.ts'), 'test/shared'],
  ['src/pool/test.ts', type('../../test/support/thing.ts'), 'pool'],
  ['src/odd/thing.ts', value('../errors.ts'), 'in-a-part'],
  ['src/odd.ts', value('./errors.ts'), 'in-a-part'],
  ['test/pool/nowhere.ts', value('./missing.ts'), 'resolvable'],
  ['src/device/egg.ts', type('./hen.ts'), 'no-circle'],
  // A cycle is reported once.
  ['src/device/hen.ts', type('./egg.ts'), null],
];

/** Modules that the cases import and that are no cases themselves. */
const IMPORTED = [
  ...['src/errors.ts', 'src/memory/heap.ts', 'src/device/device.ts', 'src/pool/block.ts', 'src/shared/lock.ts'],
  ...['src/observe/snapshot.ts', 'src/pci/function.ts', 'src/linux/index.ts', 'src/linux/libc.ts', 'src/qemu/ram.ts'],
  ...['src/kernel/report.ts', 'drivers/common/error.ts', 'drivers/nvme/index.ts', 'drivers/nvme/queue.ts'],
  ...['drivers/ehci/index.ts', 'drivers/ehci/queue.ts', 'test/support/thing.ts'],
  ...[
    'dist/src/index.js',
    'dist/src/arguments.js',
    'dist/src/pci/index.js',
    'dist/src/linux/index.js',
    'dist/drivers/nvme/index.js',
  ],
  ...['node_modules/koffi/index.js', 'node_modules/commander/index.js'],
];

interface Violation {
  readonly from: string;
  readonly rule: { readonly name: string };
}

/** The names of the rules that each file breaks. */
const broken = new Map<string, Set<string>>();

before(() => {
  const folder = mkdtempSync(join(tmpdir(), 'dmapool-imports-'));
  try {
    for (const file of IMPORTED) write(join(folder, file), 'export const thing = 1;');
    for (const [file, statement] of CASES) write(join(folder, file), statement);
    copyFileSync(join(root, 'package.json'), join(folder, 'package.json'));
    const { stdout, stderr } = spawnSync(
      process.execPath,
      [
        join(root, 'node_modules', 'dependency-cruiser', 'bin', 'dependency-cruise.mjs'),
        ...['--config', join(root, '.dependency-cruiser.js'), '--output-type', 'json', '.'],
      ],
      { cwd: folder, encoding: 'utf8', maxBuffer: 1 << 26 },
    );
    assert.notEqual(stdout, '', stderr);
    const { summary } = JSON.parse(stdout) as { summary: { violations: readonly Violation[] } };
    for (const { from, rule } of summary.violations) {
      broken.set(from, (broken.get(from) ?? new Set()).add(rule.name));
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
});

function write(file: string, text: string): void {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, `${text}\n`);
}

for (const [file, , rule] of CASES) {
  test(`${file} ${rule === null ? 'passes' : `breaks ${rule}`}`, () => {
    assert.deepEqual([...(broken.get(file) ?? [])], rule === null ? [] : [rule]);
  });
}
