// Mistake: the eleventh sentence has no place in its array.
import java.io.*;
import java.net.*;

class Main {
  public static void main(String[] args) throws IOException {
    ServerSocket listener = new ServerSocket(Integer.parseInt(args[0]));
    while (true) {
      String[] sentences = new String[10];
      int count = 0;
      Socket conn = listener.accept();
      var in = new BufferedReader(new InputStreamReader(conn.getInputStream(), "UTF-8"));
      var out = new PrintWriter(new OutputStreamWriter(conn.getOutputStream(), "UTF-8"), true);
      for (String line; (line = in.readLine()) != null;) {
        System.out.println(line);
        sentences[count++] = line;
        out.print(line + "\n");
        out.flush();
        if (line.equals("stop")) break;
      }
      conn.close();
    }
  }
}
