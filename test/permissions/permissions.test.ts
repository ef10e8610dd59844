/**
 * Node's permission model: each entry point works with the flags that docs/permissions.md lists, and, where the model is
 * stable, without none of them.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { entryPoints, root } from '../package/packed.ts';
import { OWN_FILES } from '../support/own-files.ts';
import { withoutQemu } from '../qemu/qemu.ts';

/** A program, and the flags that it needs besides reading its own files. It prints `ok`. */
interface Row {
  readonly entries: readonly string[];
  readonly program: string;
  readonly flags: readonly string[];
  readonly skip?: string | false;
}

const scratch = mkdtempSync(join(tmpdir(), 'dmapool-permissions-'));
// Inside the project, so that the package resolves itself by name.
const programs = join(root, 'dist', 'permission-programs');
mkdirSync(programs, { recursive: true });
after(() => {
  rmSync(scratch, { recursive: true });
  rmSync(programs, { recursive: true, force: true });
});

const drivers = entryPoints.map(({ specifier }) => specifier).filter((name) => name.includes('/drivers/'));
const POOL = `
  import { Device, DmaPool } from 'dmapool';
  const pool = DmaPool.create('rx', new Device({ name: 'eth0' }), { size: 64, maxBlocks: 8, debug: true });
  pool.free(pool.alloc());
`;
const trace = join(scratch, 'e100.trace.gz');
writeFileSync(trace, readFileSync(join(root, 'traces', '6.1', 'e100.trace.gz')));
const sockets = join(scratch, 'sockets');
mkdirSync(sockets, { mode: 0o700 });

const ROWS: readonly Row[] = [
  {
    entries: ['dmapool', 'arguments', 'kernel', 'conformance', 'wasm', 'pci'].map((name) =>
      name === 'dmapool' ? name : `dmapool/${name}`,
    ),
    flags: [],
    program: `${POOL}
      import { conformanceChecks } from 'dmapool/conformance';
      import { HeapMemory } from 'dmapool';
      import 'dmapool/arguments';
      import 'dmapool/kernel';
      import 'dmapool/wasm';
      import 'dmapool/pci';
      for (const { run } of conformanceChecks({ create: () => new HeapMemory({ limit: 2 ** 24 }) })) await run();
      console.log('ok');`,
  },
  {
    entries: drivers,
    flags: [],
    program: `${drivers.map((name) => `import '${name}';`).join('\n')}\nconsole.log('ok');`,
  },
  {
    entries: ['dmapool/shared'],
    flags: ['--allow-worker'],
    program: `${POOL}
      import { Worker } from 'node:worker_threads';
      import { sharePool } from 'dmapool/shared';
      const { handle } = sharePool(pool);
      new Worker("import('dmapool/shared').then(({ attachPool }) => { const { pool } = attachPool(require('worker_threads').workerData); pool.free(pool.alloc()); })", {
        eval: true,
        workerData: handle,
      }).once('exit', (code) => console.log(code === 0 ? 'ok' : code));`,
  },
  {
    entries: ['dmapool/trace'],
    flags: [`--allow-fs-read=${trace}`],
    program: `
      import { decodeTrace, replayTrace } from 'dmapool/trace';
      if (replayTrace(await decodeTrace(${JSON.stringify(trace)}), { repeat: 1 }).mismatches.length === 0) console.log('ok');`,
  },
  {
    entries: ['dmapool/observe'],
    flags: [],
    program: `${POOL}
      import { metricsText, snapshot } from 'dmapool/observe';
      if (typeof snapshot() === 'object' && typeof metricsText === 'function') console.log('ok');`,
  },
  {
    entries: ['dmapool/observe/register'],
    flags: [`--allow-fs-read=${sockets}/*`, `--allow-fs-write=${sockets}/*`, '--allow-net'],
    program: `${POOL}
      import { readdirSync } from 'node:fs';
      import 'dmapool/observe/register';
      for (let tries = 0; tries < 100; tries++) {
        await new Promise((resolve) => setTimeout(resolve, 20));
        if (readdirSync(${JSON.stringify(sockets)}).length > 0) break;
      }
      console.log(readdirSync(${JSON.stringify(sockets)}).length > 0 ? 'ok' : 'no socket');`,
  },
  {
    entries: ['dmapool/linux'],
    flags: ['--allow-addons', '--allow-fs-read=/sys/*', '--allow-fs-read=/proc/*'],
    skip: process.platform === 'linux' ? false : 'not Linux',
    // Without hugepages the error says how many are free: it has read sysfs, and loaded koffi.
    program: `
      import { HugepageError, HugetlbMemory, listPciDevices, VfioDevice } from 'dmapool/linux';
      import { readFileSync } from 'node:fs';
      listPciDevices();
      readFileSync('/proc/self/status'); // limits, as VfioDevice reads them
      let code = 'none';
      try { new HugetlbMemory({ size: 2 ** 21 }).close(); } catch (error) {
        if (!(error instanceof HugepageError) || !/free|privilege|root/.test(error.message)) throw error;
      }
      try { await VfioDevice.open('0000:7f:1f.7'); } catch (error) { code = error.code; }
      console.log(code === 'ERR_DMAPOOL_PCI_NOT_FOUND' || code.startsWith('ERR_DMAPOOL_VFIO') ? 'ok' : code);
      const koffi = (await import('koffi')).default; // throws without addons
      koffi.load(null);`,
  },
  {
    entries: ['dmapool/qemu'],
    flags: ['--allow-addons', '--allow-child-process'],
    skip: process.env['DMAPOOL_REQUIRE_TOOLS'] === '1' ? false : withoutQemu,
    program: `
      import { QemuMachine } from 'dmapool/qemu';
      const machine = await QemuMachine.start({ devices: ['edu,id=edu0'] });
      const pci = await machine.open('edu0');
      if ((await pci.bar(0).read32(0)) === 0x010000ed) console.log('ok');
      await pci.close();
      await machine.close();`,
  },
];

const folder = process.env['DMAPOOL_RUNTIMES'] ?? join(root, 'test', 'runtimes', 'node_modules');

/** A version of Node, and how its model works. */
interface Version {
  readonly name: string;
  readonly command: string;
  readonly model: '--permission' | '--experimental-permission';
  /** Flags that this version does not have yet. */
  readonly unknown: readonly string[];
  /** True if every flag must be necessary. */
  readonly strict: boolean;
}

const VERSIONS: readonly Version[] = [
  ...['24', '26'].map((major) => ({
    name: `Node ${major}`,
    command: join(folder, `node-${major}`, 'bin', 'node'),
    model: '--permission' as const,
    unknown: major === '24' ? ['--allow-net'] : [],
    strict: true,
  })),
  {
    name: 'Node 20',
    command: join(folder, 'node-20', 'bin', 'node'),
    model: '--experimental-permission',
    unknown: ['--allow-net'],
    strict: false,
  },
];

function run({ command, model }: Version, flags: readonly string[], program: string): string {
  const args = [model, '--no-warnings', ...OWN_FILES.map((path) => `--allow-fs-read=${path}`), ...flags, program];
  const env = { ...process.env, XDG_RUNTIME_DIR: sockets };
  const { stdout, stderr } = spawnSync(command, args, { cwd: root, encoding: 'utf8', env, timeout: 60_000 });
  return stdout === 'ok\n' && stderr === '' ? 'ok' : `${stdout}${stderr}`;
}

for (const [i, { entries, flags, program, skip = false }] of ROWS.entries()) {
  const file = join(programs, `${String(i)}.mjs`);
  writeFileSync(file, program);
  for (const version of VERSIONS) {
    const missing = existsSync(version.command) ? false : `${version.name} is not installed: see CONTRIBUTING.md`;
    const options = { skip: skip === false ? missing : skip, timeout: 120_000 };
    test(`${version.name}: ${entries.join(', ')}`, options, () => {
      const known = flags.filter((flag) => !version.unknown.includes(flag));
      assert.equal(run(version, known, file), 'ok');
      if (!version.strict) return;
      for (const flag of known) {
        const others = known.filter((other) => other !== flag);
        assert.notEqual(run(version, others, file), 'ok', `${flag} is not necessary`);
      }
    });
  }
}

test('the guide has every entry point and every flag', () => {
  const guide = readFileSync(join(root, 'docs', 'permissions.md'), 'utf8');
  const tested = ROWS.flatMap(({ entries }) => entries);
  assert.deepEqual(tested.sort(), entryPoints.map(({ specifier }) => specifier).sort());
  for (const entry of tested.filter((name) => !name.includes('/drivers/')))
    assert.ok(guide.includes(`\`${entry}\``), entry);
  for (const flag of ROWS.flatMap((row) => row.flags)) assert.ok(guide.includes(flag.replace(/=\/tmp.*/, '')), flag);
});
