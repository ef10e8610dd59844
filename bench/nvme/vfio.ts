/**
 * `npm run bench:vfio`: compares our NVMe driver through VFIO with the kernel's (measured by fio), in the same virtual
 * machine on the same disk, in turns.
 *
 *     npm run bench:vfio -- [--rounds N] [--seconds N] [--json]
 *
 * Both drivers use the same device model. The ratio therefore compares drivers and interrupt paths; the rates say
 * nothing about disks. Without KVM all guest code is emulated, and costs common to both may hide a difference.
 */
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { VmError } from '../../scripts/vm/error.ts';
import { runInVm } from '../../scripts/vm/run.ts';
import { needTool } from '../../scripts/vm/tools.ts';
import { type Findings, formatResults, resultsOf } from './results.ts';

const MIB = 2 ** 20;
const DISK_SIZE = 256 * MIB;
const GUEST = fileURLToPath(new URL('guest.js', import.meta.url));

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      rounds: { type: 'string', default: '5' },
      seconds: { type: 'string', default: '1' },
      json: { type: 'boolean', default: false },
    },
  });
  const rounds = Number(values.rounds);
  const seconds = Number(values.seconds);
  if (!(Number.isInteger(rounds) && rounds >= 1 && rounds <= 100))
    throw new Error('--rounds takes a number from 1 to 100');
  if (!(seconds > 0 && seconds <= 60)) throw new Error('--seconds takes a number above 0, to 60');
  needTool('fio', 'fio');
  const { exitCode, stdout, stderr, accelerator } = await runInVm({
    command: [process.execPath, '--enable-source-maps', GUEST, String(seconds), String(rounds)],
    devices: [{ kind: 'nvme', size: DISK_SIZE }],
    hugepages: { '2M': 16 },
    timeout: 120_000 + rounds * seconds * 60_000,
    onMessage: (line) => {
      console.error(line);
    },
  });
  if (exitCode !== 0) throw new Error(`the guest failed: ${stderr}`);
  const results = resultsOf(JSON.parse(stdout) as Findings);
  if (values.json) console.log(JSON.stringify({ accelerator, rounds, seconds, results }));
  else console.log(formatResults(results));
}

try {
  await main();
} catch (error) {
  // A missing tool is reported in one line, without a stack.
  if (!(error instanceof VmError)) throw error;
  console.error(`bench:vfio: ${error.message}`);
  process.exitCode = 1;
}
