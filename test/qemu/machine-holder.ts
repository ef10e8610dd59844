/** Program of left-behind.test.ts: starts a machine, prints its process id, and ends in the given way. */
import { isMainThread, Worker } from 'node:worker_threads';
import { QemuMachine } from 'dmapool/qemu';

const how = process.argv[2];

async function hold(): Promise<void> {
  const machine = await QemuMachine.start({ devices: ['edu,id=edu0'], commandTimeout: 60_000 });
  console.log(machine.pid);
  if (how === 'exit') process.exit(0);
  if (how === 'unref') {
    machine.unref();
    const edu = await machine.open('edu0');
    await edu.enableBusMaster();
    // Neither a wait without a time limit nor the timers of the machine keep this process alive.
    for (const kinds of [['intx'], ['msi']] as const) {
      const interrupts = await edu.interrupts({ kinds });
      void interrupts.wait().catch(() => undefined);
      if (kinds[0] === 'intx') await interrupts.close();
    }
    process.once('exit', () => {
      console.log(`the machine ${machine.ended.aborted ? 'ended before' : 'ends with the program'}`);
    });
    console.log((await edu.bar(0).read32(0)).toString(16));
  }
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
