/** Program of left-behind.test.ts: starts a machine, prints its process id, and ends in the given way. */
import { isMainThread, Worker } from 'node:worker_threads';
import { QemuMachine } from 'dmapool/qemu';

const how = process.argv[2];

async function hold(): Promise<void> {
  const machine = await QemuMachine.start({ devices: ['edu,id=edu0'] });
  console.log(machine.pid);
  if (how === 'exit') process.exit(0);
  if (how === 'throw') {
    setTimeout(() => {
      throw new Error('on purpose');
    }, 10);
  }
}

if (how === 'terminate' && isMainThread) {
  const worker = new Worker(new URL(import.meta.url), { argv: [how], stdout: false });
  process.stdin.once('data', () => void worker.terminate());
} else {
  await hold();
}
