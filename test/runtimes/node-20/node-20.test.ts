import { testRuntime } from '../suite/run.ts';

testRuntime({ name: 'Node 20', command: 'node-20/bin/node', webWorkers: false, typescript: false });
